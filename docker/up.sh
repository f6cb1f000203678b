#!/usr/bin/env bash
# Makes certificates and a configuration in docker/lab, unless they are there, and starts everything in compose.yaml.
# Usage: docker/up.sh [AMTSBOTE]      AMTSBOTE: the binary that makes the certificates (default target/release/amtsbote)
# With PREPARE_ONLY=1 nothing is started; LAB is another folder than docker/lab.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${1:-target/release/amtsbote}
lab=${LAB:-docker/lab}

if [ ! -e "$lab/amtsbote.toml" ]; then
    [ -x "$binary" ] || { echo "up.sh: $binary is missing; cargo build --release --bin amtsbote makes it" >&2; exit 1; }
    mkdir -p "$lab"
    "$binary" certs init "$lab/pki" --name gateway --name localhost --name 127.0.0.1
    cp gateway/core/data/areas-sample.csv "$lab/areas.csv"
    cp dvdv-mock/data/services.csv dvdv-mock/data/authorities.csv "$lab/"
    echo laboratory > "$lab/broker.password"
    cat > "$lab/amtsbote.toml" <<'TOML'
[store]
path = "/var/lib/amtsbote/store"

[exchange]
listen = "0.0.0.0:8443"
certificate = "pki/server.pem"
key = "pki/server.key"
client_ca = ["pki/ca.pem"]

[operator]
listen = "0.0.0.0:9443"
certificate = "pki/server.pem"
key = "pki/server.key"
client_ca = ["pki/ca.pem"]

[telemetry]
listen = "0.0.0.0:9464"

[seal]
certificate = "pki/seal.pem"
key = "pki/seal.key"

[directory]
servers = ["http://directory:8090/dvdv2-backend"]
certificate = "pki/dvdv-client.pem"
key = "pki/dvdv-client.key"

[routing]
areas = "areas.csv"
services = "services.csv"
authorities = "authorities.csv"

[brokers.main]
url = "amqp://broker:5672/%2f"
username = "amtsbote"
password_file = "broker.password"
declare_queues = true

[[accounts]]
name = "portal"
roles = ["author"]
parties = ["ags:07315000"]
certificates = ["pki/portal.pem"]

[[accounts]]
name = "department"
roles = ["reader"]
parties = ["dept:mainz-01"]
serves = ["wgb:073150000000"]
certificates = ["pki/department.pem"]

[[accounts]]
name = "operator"
roles = ["operator"]
certificates = ["pki/operator.pem"]
TOML
    # The gateway runs as user 10001 in its container.
    chmod -R a+rX "$lab"
    echo "up.sh: certificates and configuration are in $lab"
fi
[ "${PREPARE_ONLY:-}" = 1 ] && exit 0
docker compose -f docker/compose.yaml up --build --detach
echo "up.sh: exchange https://127.0.0.1:8443, console https://127.0.0.1:9443/console, Grafana http://127.0.0.1:3000"
echo "up.sh: sign in with: docker compose -f docker/compose.yaml exec gateway amtsbote console-link --config /etc/amtsbote/amtsbote.toml --url https://127.0.0.1:9443"
