#!/usr/bin/env bash
# Puts the binary, its manual pages, completions, a reference configuration and the systemd unit into a Debian package.
# Usage: docker/deb/build.sh [BINARY [FOLDER]]      (defaults: target/release/amtsbote, target)
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=${1:-target/release/amtsbote}
folder=${2:-target}
[ -x "$binary" ] || { echo "build.sh: $binary is missing; cargo build --release --bin amtsbote makes it" >&2; exit 1; }

version=$("$binary" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -D -m 755 "$binary" "$root/usr/bin/amtsbote"
strip --strip-debug "$root/usr/bin/amtsbote" 2>/dev/null || true
install -D -m 644 docker/systemd/amtsbote.service "$root/lib/systemd/system/amtsbote.service"
install -D -m 644 LICENSE "$root/usr/share/doc/amtsbote/copyright"
install -D -m 644 docker/prometheus/alerts.yml "$root/usr/share/doc/amtsbote/alerts.yml"
"$binary" reference > "$root/usr/share/doc/amtsbote/amtsbote.reference.toml"
"$binary" man --dir "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
install -d "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
    "$root/usr/share/fish/vendor_completions.d" "$root/etc/amtsbote"
"$binary" completions bash > "$root/usr/share/bash-completion/completions/amtsbote"
"$binary" completions zsh > "$root/usr/share/zsh/vendor-completions/_amtsbote"
"$binary" completions fish > "$root/usr/share/fish/vendor_completions.d/amtsbote.fish"
chmod 750 "$root/etc/amtsbote"

# The binary is linked to the C library and what its compiler adds.
glibc=$(objdump -T "$binary" | grep -oE 'GLIBC_[0-9.]+' | sed 's/GLIBC_//' | sort -V | tail -1)
mkdir "$root/DEBIAN"
cat > "$root/DEBIAN/control" <<CONTROL
Package: amtsbote
Version: $version
Architecture: $architecture
Maintainer: The Amtsbote developers <amtsbote@amtsbote.example>
Depends: libc6 (>= $glibc), libgcc-s1, adduser
Recommends: ca-certificates
Section: net
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Description: message routing gateway for German e-government
 Takes applications from portals (REST, XTA 2, OSCI 1.2), finds the responsible
 authority in a DVDV directory, keeps, signs and delivers them.
CONTROL
cat > "$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if ! getent passwd amtsbote >/dev/null; then
        adduser --system --group --home /var/lib/amtsbote --no-create-home --quiet amtsbote
    fi
    chgrp amtsbote /etc/amtsbote
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        # A running gateway goes on with the new binary.
        systemctl try-restart amtsbote.service
    fi
fi
POSTINST
cat > "$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now amtsbote.service || true
fi
PRERM
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"

mkdir -p "$folder"
package="$folder/amtsbote_${version}_${architecture}.deb"
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
