# OpenBao's own configuration, as far as Signet needs it.

storage "raft" {
  path    = "/var/lib/openbao"
  node_id = "openbao-0"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "0.0.0.0:8201"
  tls_cert_file   = "/etc/openbao/tls.crt"
  tls_key_file    = "/etc/openbao/tls.key"
}

api_addr     = "https://openbao:8200"
cluster_addr = "https://openbao:8201"

# Without one nobody can say what was read. It cannot be made by API.
audit "file" "main" {
  options { file_path = "/var/log/openbao/audit.log" }
}

# Then the output of
#   signet-broker bootstrap -dry-run -format selfinit …
# or bootstrap itself, with a token.
