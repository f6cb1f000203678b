#!/bin/sh
# SPDX-License-Identifier: EUPL-1.2
#
# Makes test keys of a participant who signs with an elliptic curve key.
#
#   make-ec-keys.sh <folder> <name> [<curve>] [<password>]
#
# Curves: prime256v1 (default), secp384r1, secp521r1, brainpoolP256r1 …
# Result: <name>-sign.{key,crt,p12} with the curve and <name>-cipher.{key,crt,p12} with RSA 3072, because OSCI wraps keys with RSA only.
set -eu
folder=$1
name=$2
curve=${3:-prime256v1}
password=${4:-osci-test}
mkdir -p "$folder"
cd "$folder"

make() {  # purpose, key usage, options of genpkey …
    purpose=$1
    usage=$2
    shift 2
    openssl genpkey "$@" -out "$name-$purpose.key" 2>/dev/null
    openssl req -new -x509 -key "$name-$purpose.key" -sha256 -days 7300 -subj "/C=DE/O=Amtsbote Interop Test/CN=$name $purpose" \
        -addext "keyUsage=critical,$usage" -addext "basicConstraints=critical,CA:false" -out "$name-$purpose.crt"
    openssl pkcs12 -export -inkey "$name-$purpose.key" -in "$name-$purpose.crt" -name "$name-$purpose" \
        -passout "pass:$password" -out "$name-$purpose.p12"
}

make sign digitalSignature,nonRepudiation -algorithm EC -pkeyopt "ec_paramgen_curve:$curve" -pkeyopt ec_param_enc:named_curve
make cipher keyEncipherment,dataEncipherment -algorithm RSA -pkeyopt rsa_keygen_bits:3072
