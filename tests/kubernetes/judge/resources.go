package main

import (
	"context"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	customresource "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// What is wrong with definitions and with resources, by file; nothing is good.
type problems struct {
	Definitions []string `json:"definitions"`
	Resources   []string `json:"resources"`
	// The kinds of resources that were looked at.
	Checked []string `json:"checked"`
}

type definition struct {
	structural *structuralschema.Structural
	validator  customresource.SchemaValidator
	rules      *cel.Validator
}

func customResources(crds, files []string) (any, error) {
	found := problems{Definitions: []string{}, Resources: []string{}, Checked: []string{}}
	docs, err := documents(crds)
	if err != nil {
		return nil, err
	}
	known := map[string]definition{}
	for _, doc := range docs {
		if doc.Kind != "CustomResourceDefinition" {
			found.Definitions = append(found.Definitions, doc.what()+": not a definition")
			continue
		}
		wrong, err := define(doc, known)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doc.what(), err)
		}
		for _, text := range wrong {
			found.Definitions = append(found.Definitions, doc.what()+": "+text)
		}
	}
	docs, err = documents(files)
	if err != nil {
		return nil, err
	}
	for _, doc := range docs {
		is, ok := known[doc.APIVersion+" "+doc.Kind]
		if !ok {
			continue
		}
		var object map[string]any
		if err := yaml.Unmarshal(doc.yaml, &object); err != nil {
			return nil, fmt.Errorf("%s: %w", doc.what(), err)
		}
		found.Checked = append(found.Checked, doc.Kind)
		for _, text := range is.check(object) {
			found.Resources = append(found.Resources, doc.what()+": "+text)
		}
	}
	return found, nil
}

// Checks a definition as the API server does when it is created, and keeps its versions.
func define(doc document, known map[string]definition) ([]string, error) {
	var given apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(doc.yaml, &given); err != nil {
		return nil, err
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&given)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&given.Spec)
	for _, version := range given.Spec.Versions {
		if version.Storage {
			given.Status.StoredVersions = append(given.Status.StoredVersions, version.Name)
		}
	}
	var internal apiextensions.CustomResourceDefinition
	convert := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition
	if err := convert(&given, &internal, nil); err != nil {
		return nil, err
	}
	var wrong []string
	for _, problem := range validation.ValidateCustomResourceDefinition(context.Background(), &internal) {
		wrong = append(wrong, problem.Error())
	}
	for _, version := range given.Spec.Versions {
		var props apiextensions.JSONSchemaProps
		schema := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps
		if err := schema(version.Schema.OpenAPIV3Schema, &props, nil); err != nil {
			return nil, err
		}
		structural, err := structuralschema.NewStructural(&props)
		if err != nil {
			return append(wrong, err.Error()), nil
		}
		validator, _, err := customresource.NewSchemaValidator(&props)
		if err != nil {
			return append(wrong, err.Error()), nil
		}
		known[given.Spec.Group+"/"+version.Name+" "+given.Spec.Names.Kind] = definition{
			structural: structural,
			validator:  validator,
			rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
		}
	}
	return wrong, nil
}

func (d definition) check(object map[string]any) []string {
	var wrong []string
	for _, problem := range customresource.ValidateCustomResource(nil, object, d.validator) {
		wrong = append(wrong, problem.Error())
	}
	if d.rules != nil {
		budget := int64(celconfig.RuntimeCELCostBudget)
		failed, _ := d.rules.Validate(context.Background(), nil, d.structural, object, nil, budget)
		for _, problem := range failed {
			wrong = append(wrong, problem.Error())
		}
	}
	track := structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, path := range pruning.PruneWithOptions(object, d.structural, true, track) {
		wrong = append(wrong, "unknown field "+path)
	}
	return wrong
}
