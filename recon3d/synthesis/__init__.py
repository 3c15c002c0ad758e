"""Analysis by neural synthesis: a network paints a photograph's face anew from the head's geometry."""
