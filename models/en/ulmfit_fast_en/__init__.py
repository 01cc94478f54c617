"""An English language model for ulmfit_fast: the folder ``model`` beside this file."""
