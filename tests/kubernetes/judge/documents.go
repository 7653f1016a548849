package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// A document of a file of manifests.
type document struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	file string
	yaml []byte
}

func (d document) what() string {
	return fmt.Sprintf("%s: %s %s", d.file, d.Kind, d.Name)
}

func documents(files []string) ([]document, error) {
	var all []document
	for _, file := range files {
		open, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		reader := utilyaml.NewYAMLReader(bufio.NewReader(open))
		for {
			text, err := reader.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			doc := document{file: file, yaml: text}
			if err := yaml.Unmarshal(text, &doc); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if doc.Kind != "" {
				all = append(all, doc)
			}
		}
		open.Close()
	}
	return all, nil
}

func objects(files []string) (any, error) {
	docs, err := documents(files)
	if err != nil {
		return nil, err
	}
	all := []map[string]any{}
	for _, doc := range docs {
		var object map[string]any
		if err := yaml.UnmarshalStrict(doc.yaml, &object); err != nil {
			return nil, fmt.Errorf("%s: %w", doc.what(), err)
		}
		all = append(all, object)
	}
	return all, nil
}
