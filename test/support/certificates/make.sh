#!/bin/sh
# Makes the certificates that the tests of TLS use: once, from 2020 on, for a hundred years. Needs openssl 3.
# Their keys are here for everybody to see: they are worth nothing outside these tests.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
touch "$work/index"
cat >"$work/ca.conf" <<END
[ca]
default_ca = tests
[tests]
database = $work/index
new_certs_dir = $work
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
END

request() { # name, subject
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$work/$1.csr"
}

sign() { # name, first day, last day, further arguments of `openssl ca`
  name=$1 from=$2 to=$3
  shift 3
  openssl ca -batch -notext -config "$work/ca.conf" -startdate "$from" -enddate "$to" \
    -in "$work/$name.csr" -out "$name.pem" "$@"
}

authority() { # name
  request "$1" "$1 of the tests of lacuna"
  sign "$1" 20200101000000Z 21200101000000Z -selfsign -keyfile "$1.key" -extensions authority
}

leaf() { # name, authority, subject alternative name, last day
  request "$1" "$1"
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3" >"$work/extensions"
  sign "$1" 20200101000000Z "${4-21200101000000Z}" -cert "$2.pem" -keyfile "$2.key" -extfile "$work/extensions"
}

authority authority
authority stranger
leaf destination authority DNS:localhost,IP:127.0.0.1
leaf source authority DNS:source.test
leaf elsewhere authority DNS:elsewhere.test
leaf expired authority DNS:localhost,IP:127.0.0.1 20210101000000Z
leaf foreign stranger DNS:localhost,IP:127.0.0.1
rm authority.key stranger.key
