#!/bin/sh
# SPDX-License-Identifier: EUPL-1.2
#
# Builds the official OSCI 1.2 Java client library from a checkout of its sources.
#
#   build-lib.sh <checkout or bare git mirror> <output folder>
#
# The output folder receives osci-bibliothek.jar (compiled here from src/) and every jar it needs at run time.
# Bouncy Castle, which may be absent from the checkout, comes from the Debian package libbcprov-java.
# Needed: a JDK (11 or later, javac and jar), and git if a bare mirror is given.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 <checkout or bare git mirror of the library> <output folder>" >&2
    exit 2
fi
src=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A bare mirror is unpacked first. Single files are taken, because a mirror may lack large objects.
if [ ! -d "$src/src/de/osci" ]; then
    # Git mentions objects that are missing elsewhere in the tree; that is harmless, and an incomplete src/ would not compile.
    git --git-dir="$src" archive HEAD src 2>/dev/null | tar -x -C "$work"
    mkdir -p "$work/lib"
    git --git-dir="$src" ls-tree -r --name-only HEAD lib | grep '\.jar$' | while read -r file; do
        if git --git-dir="$src" cat-file -e "HEAD:$file" 2>/dev/null; then
            git --git-dir="$src" show "HEAD:$file" > "$work/$file"
        fi
    done
    src=$work
fi

# Third-party jars: those of the checkout, except the library's own binary (it is rebuilt) and the servlet API (samples only).
for jar in "$src"/lib/*.jar; do
    case $(basename "$jar") in
        osci-bibliothek.jar|javax.servlet-api.jar) ;;
        *) [ -s "$jar" ] && cp "$jar" "$out/" ;;
    esac
done
# Bouncy Castle is mandatory (SHA-3 with RSA-PSS, plain ECDSA, GCM with 16 byte IV).
if ! ls "$out"/bcprov*.jar >/dev/null 2>&1; then
    [ -e /usr/share/java/bcprov.jar ] || {
        echo "Bouncy Castle is missing: apt-get install -y --no-install-recommends libbcprov-java" >&2
        exit 1
    }
    cp -L /usr/share/java/bcprov.jar "$out/bcprov.jar"
fi
if [ ! -e "$out/commons-logging.jar" ]; then
    cp -L /usr/share/java/commons-logging.jar "$out/commons-logging.jar"
fi

# Compile without the sample implementations (transport and key access are the application's own business).
rm -f "$out/osci-bibliothek.jar"
mkdir -p "$work/classes"
find "$src/src/de" -name '*.java' ! -path '*/samples/*' > "$work/sources"
javac -encoding UTF-8 -nowarn -Xlint:none -proc:none -cp "$out/*" -d "$work/classes" "@$work/sources"
(cd "$src/src" && find de -name '*.properties') | while read -r file; do
    mkdir -p "$work/classes/$(dirname "$file")"
    cp "$src/src/$file" "$work/classes/$file"
done
jar cf "$out/osci-bibliothek.jar" -C "$work/classes" .
ls -l "$out"
