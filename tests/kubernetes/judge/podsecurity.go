package main

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// What a workload fails, by the level that asks for it: the check, and what it says.
type verdict struct {
	Kind       string            `json:"kind"`
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name"`
	Baseline   map[string]string `json:"baseline"`
	Restricted map[string]string `json:"restricted"`
}

func podSecurity(files []string) (any, error) {
	docs, err := documents(files)
	if err != nil {
		return nil, err
	}
	verdicts := []verdict{}
	for _, doc := range docs {
		template, err := podOf(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doc.what(), err)
		}
		if template != nil {
			verdicts = append(verdicts, judge(doc, template))
		}
	}
	return verdicts, nil
}

// The pod that a workload makes; none if it is no workload. Unknown fields are errors.
func podOf(doc document) (*corev1.PodTemplateSpec, error) {
	switch doc.Kind {
	case "Pod":
		var pod corev1.Pod
		err := yaml.UnmarshalStrict(doc.yaml, &pod)
		return &corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}, err
	case "DaemonSet":
		var set appsv1.DaemonSet
		err := yaml.UnmarshalStrict(doc.yaml, &set)
		return &set.Spec.Template, err
	case "Deployment":
		var deployment appsv1.Deployment
		err := yaml.UnmarshalStrict(doc.yaml, &deployment)
		return &deployment.Spec.Template, err
	case "Job":
		var job batchv1.Job
		err := yaml.UnmarshalStrict(doc.yaml, &job)
		return &job.Spec.Template, err
	case "StatefulSet":
		var set appsv1.StatefulSet
		err := yaml.UnmarshalStrict(doc.yaml, &set)
		return &set.Spec.Template, err
	case "CronJob", "PodTemplate", "ReplicaSet", "ReplicationController":
		return nil, fmt.Errorf("this test does not know this kind of workload")
	}
	return nil, nil
}

func judge(doc document, pod *corev1.PodTemplateSpec) verdict {
	failed := verdict{
		Kind: doc.Kind, Namespace: doc.Namespace, Name: doc.Name,
		Baseline: map[string]string{}, Restricted: map[string]string{},
	}
	for _, check := range policy.DefaultChecks() {
		// The newest form of each check.
		result := check.Versions[len(check.Versions)-1].CheckPod(&pod.ObjectMeta, &pod.Spec)
		if result.Allowed {
			continue
		}
		says := result.ForbiddenReason + ": " + result.ForbiddenDetail
		if check.Level == api.LevelBaseline {
			failed.Baseline[string(check.ID)] = says
		} else {
			failed.Restricted[string(check.ID)] = says
		}
	}
	return failed
}
