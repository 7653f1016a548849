#!/bin/sh
# Makes the root file system of an image: one program, the libraries it is linked to, and nothing
# that could run anything else. A test runs a program in what this makes.
#
#   rootfs.sh DIRECTORY PROGRAM
#
# With SYSROOT set, PROGRAM is of another architecture, whose libraries are in $SYSROOT/lib (where
# Debian's cross compilers keep them).
set -eu

root=$1
program=$2
name=$(basename "$program")

mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/opt/spire/bin" "$root/run" "$root/tmp"
chmod 1777 "$root/tmp"
cp "$program" "$root/usr/bin/$name"

# glibc's loader and libraries, at the very paths where the program looks for them. A static program
# has none.
if [ -n "${SYSROOT:-}" ]; then
    loader=$(readelf -l "$program" | sed -n 's/.*program interpreter: \(.*\)\]/\1/p')
    needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    for library in $needed ${loader##*/}; do
        mkdir -p "$root/lib"
        cp -L "$SYSROOT/lib/$library" "$root/lib/$library"
    done
elif libraries=$(ldd "$program"); then
    case $libraries in
        *"not found"*) echo "$program: $libraries" >&2; exit 1 ;;
    esac
    for library in $(echo "$libraries" | grep -o '/[^ ]*'); do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
fi

# Names are resolved by /etc/hosts and DNS; both are built into glibc.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/nonexistent\nnonroot:x:65532:65532:nonroot:/:/nonexistent\n' \
    > "$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' > "$root/etc/group"
# For trust_bundle_url and other https:// of the world.
if [ -r /etc/ssl/certs/ca-certificates.crt ]; then
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
fi

# The names under which SPIRE's charts, scripts and people call it; SPIRE's default paths go with
# them.
case $name in
    signet-server | signet-agent) ln -s "/usr/bin/$name" "$root/opt/spire/bin/spire-${name#signet-}" ;;
    signet-controller) ln -s "/usr/bin/$name" "$root/spire-controller-manager" ;;
esac
