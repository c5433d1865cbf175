"""How the built-in network is trained. Nothing here is imported by osamd."""
