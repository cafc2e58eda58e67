# What the scripts build-ffmpeg, build-lua and build-sqlite share; they read this file with `.`.
#
# A program's source comes from the distribution: the machine's own list of package sources, with
# deb-src in place of deb, is given to apt together with folders of its own. So apt checks
# signatures and digests as always, and nothing outside .cache is written. The compiler is the
# distribution's clang, with wasi-libc as the C library.
#
# Each script builds into .cache/NAME/ and is done at once when the result is there; `--force`
# builds anew. JOBS is how many compilers run at a time (default: one for each processor).

set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
JOBS=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)}

# The features that the programs may use, named rather than left to the compiler's release.
TARGET="--target=wasm32-wasi -mcpu=mvp -mmutable-globals -msign-ext -mbulk-memory"

say() { echo "$(basename "$0"): $*"; }
fail() {
    say "$*" >&2
    exit 1
}

# first_of COMMAND...: prints the first of these commands that is installed.
first_of() {
    for command in "$@"; do
        if command -v "$command" >/dev/null 2>&1; then
            echo "$command"
            return 0
        fi
    done
    return 1
}

# versions NAME: prints NAME and its names with a version of LLVM, the newest first.
versions() {
    echo "$1"
    version=30
    while [ $version -ge 14 ]; do
        echo "$1-$version"
        version=$((version - 1))
    done
}

# Can this clang compile and link a program for WASI?
builds_for_wasi() (
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cd "$folder"
    # A multiplication of 128 bits needs the compiler's runtime library, printf the C library.
    cat >try.c <<'TRY'
#include <stdio.h>
int main(int argc, char **argv) {
    (void)argv;
    __int128 wide = argc;
    return printf("%d\n", (int)(wide * wide >> 64)) < 0;
}
TRY
    # shellcheck disable=SC2086
    "$1" $TARGET try.c -o try.wasm 2>/dev/null
)

# clang runs the wasm-opt that it finds on PATH (package binaryen) on what it has linked. So that
# the result does not depend on what else is installed, it finds one that does nothing.
no_wasm_opt() {
    mkdir -p "$root/.cache/no-wasm-opt"
    printf '#!/bin/sh\n' >"$root/.cache/no-wasm-opt/wasm-opt"
    chmod +x "$root/.cache/no-wasm-opt/wasm-opt"
    PATH=$root/.cache/no-wasm-opt:$PATH
}

# Sets CC, AR and RANLIB, or prints the one line that installs what is missing.
# need_tools [COMMAND=PACKAGE...]: further commands that the caller's program needs.
need_tools() {
    no_wasm_opt
    CC=
    for candidate in ${WASI_CC:-} $(versions clang); do
        if command -v "$candidate" >/dev/null 2>&1 && builds_for_wasi "$candidate"; then
            CC=$candidate
            break
        fi
    done
    packages=
    if [ -z "$CC" ]; then
        # The packages of the compiler that is there, or else of one that is known to do.
        suffix=$(first_of clang-19 $(versions clang) || echo clang-19)
        suffix=${suffix#clang}
        case $suffix in
        "") packages="clang lld wasi-libc libclang-rt-dev-wasm32" ;;
        *) packages="clang$suffix lld$suffix wasi-libc libclang-rt$suffix-dev-wasm32" ;;
        esac
    fi
    AR=$(first_of $(versions llvm-ar)) || packages="$packages llvm"
    RANLIB=$(first_of $(versions llvm-ranlib)) || packages="$packages llvm"
    for pair in make=make dpkg-source=dpkg-dev patch=patch xz=xz-utils "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || packages="$packages ${pair#*=}"
    done
    command -v apt-get >/dev/null 2>&1 ||
        fail "needs apt-get: the source comes from Debian's (or a derivative's) packages"
    [ -z "$packages" ] && return 0
    sudo=$([ "$(id -u)" = 0 ] || echo "sudo ")
    packages=$(printf '%s\n' $packages | sort -u | tr '\n' ' ')
    fail "tools are missing; install with: ${sudo}apt-get install -y ${packages% }"
}

# apt with state and lists of our own; $apt is the folder.
own_apt() {
    command=$1
    shift
    "$command" -q \
        -o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=$apt/parts" \
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" \
        -o "APT::Sandbox::User=$(id -un)" -o "APT::Update::Post-Invoke::=" \
        -o "APT::Get::List-Cleanup=0" "$@"
}

# fetch_source PACKAGE FOLDER: unpacks the newest source of PACKAGE, patches applied, into FOLDER,
# which must not exist. Downloads are kept in .cache/apt.
fetch_source() {
    apt=$root/.cache/apt
    mkdir -p "$apt/parts" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/downloads"
    list=
    parts=
    eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
    rm -f "$apt/parts"/*
    : >"$apt/sources.list"
    for file in "$list" "$parts"/*.list; do
        [ -f "$file" ] || continue
        sed -n 's/^[[:space:]]*deb[[:space:]]/deb-src /p' "$file" >>"$apt/sources.list"
    done
    for file in "$parts"/*.sources; do
        [ -f "$file" ] || continue
        sed 's/^Types:.*/Types: deb-src/' "$file" >"$apt/parts/$(basename "$file")"
    done
    say "reading the list of source packages"
    # One unreachable source among several need not matter, if another one has the package.
    own_apt apt-get update >"$apt/log" 2>&1 || cat "$apt/log" >&2
    say "fetching the source of $1"
    (cd "$apt/downloads" && own_apt apt-get source --download-only "$1") >"$apt/log" 2>&1 || {
        cat "$apt/log" >&2
        fail "apt cannot fetch the source of $1 (see above)"
    }
    # The newest description of those downloaded: what apt chose just now.
    description=$(sed -n "s/.*[ '/]\($1_[^ ']*\.dsc\).*/\1/p" "$apt/log" | head -n 1)
    [ -n "$description" ] || description=$(cd "$apt/downloads" && ls -t "$1"_*.dsc | head -n 1)
    SOURCE_VERSION=${description#"$1"_}
    SOURCE_VERSION=${SOURCE_VERSION%.dsc}
    dpkg-source --no-check --no-copy -x "$apt/downloads/$description" "$2" >"$apt/log" 2>&1 || {
        cat "$apt/log" >&2
        fail "the source of $1 cannot be unpacked"
    }
    say "$1 $SOURCE_VERSION"
}

# already_built FILE "$@": ends the script when FILE is there and --force is not among the
# arguments.
already_built() {
    file=$1
    shift
    case " $* " in
    *" --force "*) return 0 ;;
    esac
    [ -f "$file" ] || return 0
    say "${file#"$root"/} is there already; --force builds it anew"
    exit 0
}

# logged LOG COMMAND...: runs the command quietly; shows the end of its words if it fails.
logged() {
    log=$PWD/$1
    shift
    "$@" >"$log" 2>&1 && return 0
    tail -n 30 "$log" >&2
    fail "$1 failed; all that it said is in $log"
}
