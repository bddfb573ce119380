"""The command line: kubectl's verbs over the engine. The only place that knows click, rich and exit codes."""
