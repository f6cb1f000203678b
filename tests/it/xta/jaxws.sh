#!/usr/bin/env bash
# Generates classes from a description with JAX-WS RI, compiles the client and runs it.
# Usage: jaxws.sh FOLDER WSDL_FILE BASE_URL CA PORTAL_PEM PORTAL_KEY DEPARTMENT_PEM DEPARTMENT_KEY READER SERVICE
set -euo pipefail
folder=$1 wsdl=$2
here=$(dirname "$0")
mkdir -p "$folder/source" "$folder/classes"
class_path="$folder/classes"
for jar in jaxws-rt jaxws-api jaxb-api jaxb-core jaxb-runtime jaxb-impl saaj-impl javax.xml.soap-api stax-ex stax2-api \
    streambuffer mimepull metro-policy gmbal jws-api javax.activation geronimo-annotation-1.3-spec FastInfoset \
    istack-commons-runtime txw2 jaxws-ri-runtime; do
    [ ! -e "/usr/share/java/$jar.jar" ] || class_path="$class_path:/usr/share/java/$jar.jar"
done
# The transport is named as in SOAP 1.1, like in the published description; that counts as an extension.
wsimport -extension -quiet -Xnocompile -XadditionalHeaders -s "$folder/source" -d "$folder/source" "$wsdl"
find "$folder/source" -name '*.java' > "$folder/sources"
javac -nowarn -d "$folder/classes" -cp "$class_path" "@$folder/sources" "$here/Client.java"
keystore() { openssl pkcs12 -export -in "$1" -inkey "$2" -out "$3" -passout pass:laboratory; }
keystore "$5" "$6" "$folder/portal.p12"
keystore "$7" "$8" "$folder/department.p12"
java -cp "$class_path" Client "file:$wsdl" "$3" "$4" "$folder/portal.p12" "$folder/department.p12" "$9" "${10}"
