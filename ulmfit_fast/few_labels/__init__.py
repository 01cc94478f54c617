"""Learning from few labels: what joins the stages with texts that have no label, a weak one, or a wrong one."""
