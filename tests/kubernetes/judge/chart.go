package main

import (
	"fmt"
	"path/filepath"
	"sort"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

// What a chart makes of values.
type rendered struct {
	Manifests string `json:"manifests"`
	Notes     string `json:"notes"`
	CRDs      int    `json:"crds"`
}

func renderChart(dir, release, namespace, version string, files []string) (any, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return nil, err
	}
	values, err := readValues(files)
	if err != nil {
		return nil, err
	}
	kube, err := common.ParseKubeVersion(version)
	if err != nil {
		return nil, err
	}
	options := common.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *kube
	top, err := util.ToRenderValues(chart, values, options, capabilities)
	if err != nil {
		return nil, err
	}
	files2text, err := engine.Render(chart, top)
	if err != nil {
		return nil, err
	}
	answer := rendered{CRDs: len(chart.CRDObjects())}
	names := make([]string, 0, len(files2text))
	for name := range files2text {
		names = append(names, name)
	}
	sort.Strings(names)
	var manifests strings.Builder
	for _, name := range names {
		text := files2text[name]
		switch {
		case filepath.Base(name) == "NOTES.txt":
			answer.Notes = text
		case strings.HasSuffix(name, ".yaml") && strings.TrimSpace(text) != "":
			fmt.Fprintf(&manifests, "---\n# Source: %s\n%s\n", name, text)
		}
	}
	answer.Manifests = manifests.String()
	return answer, nil
}

func lintChart(dir, namespace, version string, files []string) (any, error) {
	values, err := readValues(files)
	if err != nil {
		return nil, err
	}
	kube, err := common.ParseKubeVersion(version)
	if err != nil {
		return nil, err
	}
	messages := []string{}
	for _, message := range lint.RunAll(dir, values, namespace, lint.WithKubeVersion(kube)).Messages {
		if message.Severity > support.InfoSev {
			messages = append(messages, message.Error())
		}
	}
	return messages, nil
}

func readValues(files []string) (map[string]any, error) {
	values := map[string]any{}
	for _, file := range files {
		more, err := common.ReadValuesFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		values = util.MergeTables(more, values)
	}
	return values, nil
}
