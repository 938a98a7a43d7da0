#!/bin/sh
# Builds architect-criu: Debian's CRIU, our patches, the fork server, one static binary.
#
#   build.sh OUTPUT_DIRECTORY [BUILD_DIRECTORY]
#
# Runs as root in a Debian (forky or newer) root that has the packages of build-dependencies.txt:
# a chroot or a RUN step of an image build. Leaves in OUTPUT_DIRECTORY:
#
#   architect-criu            the binary, stripped
#   architect-criu.version    Debian's version of the source, and the patches
set -eu

output=${1:?usage: build.sh OUTPUT_DIRECTORY [BUILD_DIRECTORY]}
build=${2:-/tmp/architect-criu-build}
here=$(cd "$(dirname "$0")" && pwd)
# 4.1 cannot dump a TCP socket on Linux >= 6.16.
minimum=4.2

mkdir -p "$output" "$build"
output=$(cd "$output" && pwd)
cd "$build"

# deb-src entries for what the system already uses, one-line and deb822, in a directory of their
# own: neither the system's lists nor its index files change.
mkdir -p sources lists/partial
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -f "$file" ] || sed -n 's/^[[:space:]]*deb\([[:space:]]\)/deb-src\1/p' "$file"
done > sources/one-line.list
for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -f "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" > "sources/${file##*/}"
done
with_sources() {
    "$@" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$build/sources" \
        -o Dir::State::lists="$build/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root
}
with_sources apt-get -q update
version=$(with_sources apt-cache showsrc --only-source criu | sed -n 's/^Version: //p' |
    sort -V | tail -n 1)
dpkg --compare-versions "${version:-0}" ge "$minimum" || {
    echo "build.sh: the archive has criu ${version:-nowhere}, at least $minimum is needed" >&2
    exit 1
}
# The release alone: Debian's patches concern its own packaging.
with_sources apt-get -q source --download-only --tar-only "criu=$version"
rm -rf tree
mkdir tree
tar -xf "criu_${version%-*}.orig.tar."* -C tree --strip-components=1
cd tree

for patch in "$here"/patches/*.patch; do
    [ ! -f "$patch" ] || patch -p1 < "$patch"
done

# A symbolic link in CRIU's repository that release archives may lack.
[ -e images/google/protobuf/descriptor.proto ] ||
    ln -s /usr/include/google/protobuf/descriptor.proto images/google/protobuf/

# RUNDIR, PLUGINDIR: a probe's cache and plugins must never be found, whatever a container's file
# system holds; nothing lies below /dev/null.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1}"
set -- NO_GNUTLS=1 WERROR=0 RUNDIR=/dev/null PLUGINDIR=/dev/null/none
make -j"${JOBS:-$(nproc)}" "$@" criu > ../make.log 2>&1 || {
    tail -n 40 ../make.log >&2
    exit 1
}

# The file that meets CRIU's headers is compiled by CRIU's own make, with all its settings.
cp "$here/src/criu_seams.c" "$here/src/criu_seams.h" criu/
make "$@" criu/criu_seams.o >> ../make.log 2>&1 || {
    tail -n 40 ../make.log >&2
    exit 1
}
mkdir -p ../objects
for source in "$here"/src/*.c; do
    [ "${source##*/}" != criu_seams.c ] || continue
    gcc -std=gnu11 -O2 -g -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Wall -Wextra -Werror \
        -c "$source" -o "../objects/$(basename "$source" .c).o"
done

# One object per CRIU source instead of its combined built-in.o: --wrap only sees references
# between objects. nla_parse and nlmsg_parse are CRIU's own wrappers.
wrapped="main kerndat_init cr_plugin_init cr_system cr_system_userns execvp execlp dlopen
    getaddrinfo setsid syscall nla_parse nlmsg_parse"
flags=
for symbol in $wrapped; do
    flags="$flags -Wl,--wrap=$symbol"
done
objects=$(ls criu/*.o | grep -v '/built-in\.o$')
architecture=$(dirname criu/arch/*/crtools.built-in.o)
# shellcheck disable=SC2086
gcc -O2 -g -static -o ../architect-criu.debug ../objects/*.o $objects criu/pie/pie.lib.a \
    images/built-in.o "$architecture/crtools.built-in.o" soccr/libsoccr.a compel/libcompel.a \
    -lprotobuf-c -lnl-3 -lnet -luuid -lpthread $flags 2> ../link.log || {
    cat ../link.log >&2
    exit 1
}
strip -o "$output/architect-criu" ../architect-criu.debug
{
    echo "criu $version"
    for patch in "$here"/patches/*.patch; do
        [ ! -f "$patch" ] || echo "patch ${patch##*/}"
    done
} > "$output/architect-criu.version"
cat "$output/architect-criu.version"
