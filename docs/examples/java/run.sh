#!/bin/sh
. "$(dirname "$0")/../common.sh"
need java mvn python3
target="$CACHE/java"
mvn -q -B -f "$(dirname "$0")/pom.xml" package -DbuildDirectory="$target"
register greeter
port=$(port)
greeter() { java -XX:TieredStopAtLevel=1 -cp "$target/classes:$target/lib/*" example.Greeter "$@"; }
start java -XX:TieredStopAtLevel=1 -cp "$target/classes:$target/lib/*" example.Greeter serve "$port" "$ID/greeter"
eventually listening "$port"

say "A client that the server knows, and that knows the server"
works greeter call "$port" "$ID/greeter"
say "A client that wants to speak with somebody else"
refused 'is not accepted\|SPIFFE ID' greeter call "$port" "$ID/other"
