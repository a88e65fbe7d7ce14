package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func topicsCommand() *cobra.Command {
	return terminal.Group("topics", "The topics of the source: list them, change a setting", topicsList(), topicsSet())
}

func topicsList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "Print the topics of the source with partitions, retention and what they hold", Args: terminal.NoArgs,
		Example: "  capture topics list -c capture.yaml\n  capture topics list -c capture.yaml --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			topics, err := c.Topics(cmd.Context())
			if err != nil {
				return err
			}
			out := terminal.Of(cmd)
			if out.JSON {
				return out.Document(map[string]any{"schema": "tributary.capture.topics/1", "topics": topics})
			}
			t := &terminal.Table{Columns: []terminal.Column{
				{Title: "topic"}, {Title: "partitions", Number: true}, {Title: "replicas", Number: true}, {Title: "kept", Wraps: true}, {Title: "greatest record", Number: true}, {Title: "offsets", Number: true},
			}, Empty: "the source has no topics yet"}
			for i := range topics {
				one := &topics[i]
				t.Rows = append(t.Rows, []terminal.Cell{
					{Text: one.Topic},
					{Text: fmt.Sprint(one.Partitions)},
					{Text: fmt.Sprint(one.Replicas)},
					{Text: kept(one)},
					terminal.Number(service.FormatBytes(one.MaxMessageBytes), one.MaxMessageBytes), terminal.Number(service.FormatCount(one.Records), one.Records),
				})
			}
			return out.Table(t)
		},
	}
	terminal.JSON(cmd)
	return cmd
}

// kept says how long a topic keeps records.
func kept(t *capture.TopicInfo) string {
	switch {
	case t.Cleanup == "compact":
		return "newest of each key"
	case t.RetentionMillis < 0 && t.RetentionBytes < 0:
		return "for ever"
	case t.RetentionMillis < 0:
		return service.FormatBytes(t.RetentionBytes) + " a partition"
	}
	return service.FormatDuration(time.Duration(t.RetentionMillis) * time.Millisecond)
}

func topicsSet() *cobra.Command {
	var change terminal.Change
	var size, retention string
	cmd := &cobra.Command{
		Use: "set TOPIC", Short: "Change a setting of a topic of the source, at the brokers", Args: terminal.MaxArgs(1),
		Example: "  capture topics set shop.public.document --max-message-bytes 16MiB --plan\n  capture topics set shop.public.orders --retention 720h --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || size == "" && retention == "" {
				return terminal.Usagef("which topic, and what of it? capture topics set TOPIC --max-message-bytes 16MiB, or --retention 720h")
			}
			var wanted capture.TopicChange
			if size != "" {
				var b config.Bytes
				if err := b.UnmarshalText([]byte(size)); err != nil {
					return terminal.Usagef("--max-message-bytes: %w", err)
				}
				n := int64(b)
				wanted.MaxMessageBytes = &n
			}
			if retention != "" {
				d := time.Duration(-1)
				if retention != "forever" {
					var err error
					if d, err = time.ParseDuration(retention); err != nil || d <= 0 {
						return terminal.Usagef("--retention is %q; write 720h, or forever", retention)
					}
				}
				wanted.Retention = &d
			}
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			topics, err := c.Topics(cmd.Context())
			if err != nil {
				return err
			}
			var names []string
			var found *capture.TopicInfo
			for i := range topics {
				names = append(names, topics[i].Topic)
				if topics[i].Topic == args[0] {
					found = &topics[i]
				}
			}
			if found == nil {
				return terminal.Usage(terminal.Nearest("topic of this source", args[0], names))
			}
			out := terminal.Of(cmd)
			if wanted.MaxMessageBytes != nil {
				out.Printf("%s: greatest record %s, now %s\n", found.Topic, service.FormatBytes(*wanted.MaxMessageBytes), service.FormatBytes(found.MaxMessageBytes))
			}
			if wanted.Retention != nil {
				out.Printf("%s: kept %s, now %s; what is deleted cannot be rebuilt from\n", found.Topic, retention, kept(found))
			}
			if ok, err := change.Agreed(cmd); err != nil || !ok {
				return err
			}
			if err := c.SetTopic(cmd.Context(), found.Topic, wanted); err != nil {
				return err
			}
			out.Printf("changed\n")
			return nil
		},
	}
	change.Flags(cmd, false)
	cmd.Flags().StringVar(&size, "max-message-bytes", "", "greatest record that the topic takes, like 16MiB")
	cmd.Flags().StringVar(&retention, "retention", "", "how long records are kept, like 720h, or forever")
	return cmd
}
