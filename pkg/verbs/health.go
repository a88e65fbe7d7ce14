package verbs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// HealthCheck makes the verb by which a container without a shell is asked whether it is healthy.
func (p Program[C]) HealthCheck() *cobra.Command {
	var ready bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use: "healthcheck", Short: "Say whether the service on this host answers: exit code 0 or 1", Args: terminal.NoArgs,
		Long:        "Asks /healthz of the service that the configuration is of, at the address, with the certificate and the token that it says.",
		Annotations: map[string]string{terminal.Exits: "  0  the service answers\n  1  it does not, or there is no configuration"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg C
			if err := terminal.Configuration(cmd, &cfg); err != nil {
				return fmt.Errorf("ask the service: %s", err) //nolint:errorlint // for a container all failures are one
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			where := p.HTTP(&cfg)
			answer, err := service.Fetch(ctx, where, path)
			if err != nil {
				return fmt.Errorf("ask %s%s: %w", service.LocalURL(where), path, err)
			}
			terminal.Of(cmd).Printf("%s\n", strings.TrimSpace(string(answer)))
			return nil
		},
	}
	p.examples(cmd, "healthcheck", "healthcheck --ready --timeout 1s")
	cmd.Flags().BoolVar(&ready, "ready", false, "ask /readyz: whether it has come to do its work, and has not stopped")
	cmd.Flags().DurationVar(&patience, "timeout", 2*time.Second, "how long the service may take")
	return cmd
}
