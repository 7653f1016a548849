// Command judge judges manifests, charts and custom resources with the libraries that
// Kubernetes and Helm themselves use. It prints one JSON document.
//
//	documents FILE...                                    the objects, as JSON
//	podsecurity FILE...                                  which Pod Security checks each workload fails
//	chart DIR RELEASE NAMESPACE KUBEVERSION VALUES...    what Helm makes of a chart
//	lint DIR NAMESPACE KUBEVERSION VALUES...             what Helm's linter says of it
//	resources CRDS... -- FILES...                        custom resources and their definitions
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

func main() {
	answer, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("which command?")
	}
	command, args := args[0], args[1:]
	switch {
	case command == "documents":
		return objects(args)
	case command == "podsecurity":
		return podSecurity(args)
	case command == "chart" && len(args) >= 4:
		return renderChart(args[0], args[1], args[2], args[3], args[4:])
	case command == "lint" && len(args) >= 3:
		return lintChart(args[0], args[1], args[2], args[3:])
	case command == "resources":
		for i, arg := range args {
			if arg == "--" {
				return customResources(args[:i], args[i+1:])
			}
		}
	}
	return nil, fmt.Errorf("unknown command, or too few arguments: %s %v", command, args)
}
