"""A whole cluster in virtual time: the router's own policies over simulated engines and predictors."""
