# A tenant, a database login, a static key, and who may have them.

tenant "blue" {
    namespace = "blue"
    path      = "/tenants/blue/"
}

credential "orders-db" {
    engine = "database"
    role   = "orders"
    ttl    = "10m"

    # bootstrap writes the role, with revocation statements that end open sessions.
    connection = "orders"
    member_of  = "orders_rw"
}

credential "mail-key" {
    engine = "kv"
    path   = "mail/api"
    ttl    = "5m"
}

rule "orders" {
    tenant           = "blue"
    ids              = ["/tenants/blue/orders"]
    credentials      = ["orders-db", "mail-key"]
    service_accounts = ["shop/orders"]
}
