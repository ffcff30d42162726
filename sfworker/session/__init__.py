"""SecretFlow's session in one party process: cluster, devices, links, codec. Only here is SecretFlow started."""
