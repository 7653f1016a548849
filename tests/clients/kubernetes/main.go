// Authenticates tokens as a Kubernetes API server does that was started with
// --authentication-config: the configuration is read, checked and obeyed by its own packages.
//
//	kubernetes CONFIG TOKEN...
//
// prints a JSON line for each token: who it is for the API server, or why it is nobody.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// How long the provider's documents may take to be fetched.
const patience = 60 * time.Second

type authorities string

func (a authorities) CurrentCABundleContent() []byte { return []byte(a) }

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: kubernetes CONFIG TOKEN...")
		os.Exit(64)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(file string, tokens []string) error {
	config, err := read(file)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	var all []oidc.AuthenticatorTokenWithHealthCheck
	for _, issuer := range config.JWT {
		options := oidc.Options{
			JWTAuthenticator:     issuer,
			SupportedSigningAlgs: oidc.AllValidSigningAlgorithms(),
		}
		if pem := issuer.Issuer.CertificateAuthority; pem != "" {
			options.CAContentProvider = authorities(pem)
		}
		one, err := oidc.New(ctx, options)
		if err != nil {
			return err
		}
		if err := ready(ctx, one); err != nil {
			return err
		}
		all = append(all, one)
	}
	for _, token := range tokens {
		line, err := json.Marshal(authenticate(ctx, all, token))
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

// Waits for the provider's documents; an API server would ask for them again later.
func ready(ctx context.Context, one oidc.AuthenticatorTokenWithHealthCheck) error {
	for {
		err := one.HealthCheck()
		if err == nil || !strings.Contains(err.Error(), "not initialized") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// What the API server makes of a configuration file.
func read(file string) (*apiserver.AuthenticationConfiguration, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	config := &apiserver.AuthenticationConfiguration{}
	if err := runtime.DecodeInto(codecs.UniversalDecoder(), data, config); err != nil {
		return nil, err
	}
	compiler := authenticationcel.NewDefaultCompiler()
	if err := validation.ValidateAuthenticationConfiguration(compiler, config, nil).ToAggregate(); err != nil {
		return nil, err
	}
	return config, nil
}

func authenticate(ctx context.Context, all []oidc.AuthenticatorTokenWithHealthCheck, token string) map[string]any {
	for _, one := range all {
		response, ok, err := one.AuthenticateToken(ctx, token)
		if err != nil {
			return map[string]any{"error": err.Error()}
		}
		if ok {
			user := response.User
			return map[string]any{
				"username": user.GetName(),
				"groups":   user.GetGroups(),
				"uid":      user.GetUID(),
				"extra":    user.GetExtra(),
			}
		}
	}
	return map[string]any{"error": "no issuer of the configuration is the token's"}
}
