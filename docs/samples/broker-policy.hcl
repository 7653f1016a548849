# Who may have which credential.

tenant "blue" {
    namespace = "blue"
    path      = "/tenants/blue/"
}

tenant "red" {
    namespace = "red"
    path      = "/tenants/red/"
}

# Tier 1: made for the caller, and gone with it.
credential "orders-db" {
    engine   = "database"
    role     = "orders"
    ttl      = "10m"
    max_uses = 20
}

credential "web-cert" {
    engine = "pki"
    role   = "web"
    ttl    = "1h"
}

credential "card-key" {
    engine     = "transit"
    key        = "cards"
    operations = ["encrypt", "decrypt"]
    ttl        = "10m"
}

credential "archive" {
    engine = "aws"
    role   = "archive"
    sts    = true
    ttl    = "15m"
}

# Tier 2: kept in OpenBao, given out by the same rules.
credential "mail-key" {
    engine   = "kv"
    mount    = "secret"
    path     = "mail/api"
    ttl      = "5m"
    wrap_ttl = "1m"
}

rule "orders" {
    tenant      = "blue"
    ids         = ["/tenants/blue/orders"]
    credentials = ["orders-db", "card-key"]
}

rule "edge" {
    tenant      = "blue"
    ids         = ["/tenants/blue/edge/*"]
    credentials = ["web-cert", "mail-key"]
}

rule "reports" {
    tenant      = "red"
    ids         = ["/tenants/red/**"]
    claims      = ["tenant=red"]
    credentials = ["archive"]
}
