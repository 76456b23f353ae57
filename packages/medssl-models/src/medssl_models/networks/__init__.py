"""Networks: the trunks of the study, networks of timm, untrained controls."""
