package verbs

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// Version makes the verb that says which build this is.
func (p Program[C]) Version() *cobra.Command {
	return p.examples(&cobra.Command{
		Use: "version", Short: "Print the version", Args: terminal.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			b := service.ThisBuild()
			terminal.Of(cmd).Printf("%s %s %s %s\n", p.Name, b.Version, b.Revision, b.GoVersion)
		},
	}, "version")
}
