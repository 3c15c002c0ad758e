"""How the encoder's weights are made: what training starts from, sees and minimises."""
