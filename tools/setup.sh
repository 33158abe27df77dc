#!/usr/bin/env bash
# Set up this machine: system packages through apt when root, then a virtual environment with exact pins.
# Usage: tools/setup.sh PYTHON VENV [proof]; `proof` adds what guests for arm64 are made with
set -euo pipefail
python=$1 venv=$2

# command-to-look-for:package
needs=(
  python3:python3 clang:clang llvm-strip:llvm gcc:gcc bpftool:bpftool sshd:openssh-server ssh-keygen:openssh-client ip:iproute2
  iptables:iptables ipset:ipset make:make xz:xz-utils git:git strace:strace ps:procps busybox:busybox-static gpg:gpg gpg-agent:gpg-agent
  qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs pg_ctlcluster:postgresql
  flex:flex bison:bison bc:bc pahole:dwarves # for small kernels, which `make proof` builds
  zstd:zstd lz4:lz4 lzop:lzop bzip2:bzip2
)
# file-to-look-for:package
headers="linux-headers-$(dpkg --print-architecture 2>/dev/null || echo amd64)"
files=(
  /usr/include/bpf/libbpf.h:libbpf-dev /usr/include/libelf.h:libelf-dev /usr/include/zlib.h:zlib1g-dev
  /usr/lib/python3/dist-packages/bcc:python3-bpfcc
  /usr/sbin/tcplife:libbpf-tools # for tests: the objects embedded in its binaries
  "/usr/share/doc/$headers:$headers" # for tests of BCC builds
)
if [ "${3:-}" = proof ]; then
  needs+=(qemu-system-aarch64:qemu-system-arm aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu)
  files+=(/usr/aarch64-linux-gnu/lib/libc.a:libc6-dev-arm64-cross)
fi
export PATH="$PATH:/usr/sbin:/sbin"
missing=()
for row in "${needs[@]}"; do command -v "${row%%:*}" >/dev/null || missing+=("${row##*:}"); done
for row in "${files[@]}"; do [ -e "${row%%:*}" ] || missing+=("${row##*:}"); done
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" libc6-dev >/dev/null
  else
    echo "setup: not root; please install: ${missing[*]}" >&2
    echo "setup: going on with what is possible without them" >&2
  fi
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: Python 3.11 or newer is needed, $python is older" >&2; exit 2; }
[ -x "$venv/bin/python" ] || { echo "setup: creating $venv"; "$python" -m venv "$venv"; }
echo "setup: installing pinned Python packages"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
