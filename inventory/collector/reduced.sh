# The reduced collector for hosts without Python: POSIX sh with cat, od, sed, grep, tr and their like. It reads files and
# asks tools; what needs system calls of its own is unknown here, never no. Changes nothing, writes no file.
LC_ALL=C; export LC_ALL
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
exec </dev/null
first=1
began=$(date +%s)

# The text on stdin as the inside of a JSON string: one line, printable ASCII, bounded.
json() { tr -c '\040-\176' ' ' | cut -c 1-2000 | sed -e 's/ *$//' -e 's/\\/\\\\/g' -e 's/"/\\"/g'; }
text() {
  case $1 in
    *[!A-Za-z0-9\ ._:/=,+@\(\)-]*) printf '%s' "$1" | json ;;
    *) printf '%s' "$1" ;; # nothing to escape: no processes for what most texts are
  esac
}

# fact NAME ANSWER [VALUE-as-JSON [SOURCE [RAW [ERRNO]]]]
fact() {
  [ $first = 1 ] || printf ','
  first=0
  printf '"%s":{"answer":"%s"' "$1" "$2"
  [ -z "${3:-}" ] || printf ',"value":%s' "$3"
  [ -z "${4:-}" ] || printf ',"source":"%s"' "$(text "$4")"
  [ -z "${5:-}" ] || printf ',"raw":"%s"' "$(text "$5")"
  [ -z "${6:-}" ] || printf ',"errno":"%s"' "$6"
  printf '}'
}
said() { fact "$1" yes "\"$(text "$2")\"" "$3"; }

# Why a file could not be read: absent and denied are two answers.
unread() {
  if [ ! -e "$2" ]; then fact "$1" no '' "$2" 'no such file' ENOENT
  elif [ ! -r "$2" ]; then fact "$1" blocked '' "$2" 'permission denied' EACCES
  else fact "$1" unknown '' "$2" 'could not be read'; fi
}
file() { if value=$(cat "$2" 2>/dev/null); then said "$1" "$value" "$2"; else unread "$1" "$2"; fi; }
number() {
  if value=$(cat "$2" 2>/dev/null); then
    case ${value#-} in
      '' | *[!0-9]*) fact "$1" unknown '' "$2" "$value" ;;
      *) fact "$1" yes "$value" "$2" ;;
    esac
  else unread "$1" "$2"; fi
}
list() { # words → a JSON list
  printf '['
  comma=
  for word in "$@"; do
    printf '%s"%s"' "$comma" "$(text "$word")"
    comma=,
  done
  printf ']'
}

printf '{"schema":"corollout.facts/1","collector":{"form":"sh"},"collected_at":%s,"facts":{' "$began"

release=$(cat /proc/sys/kernel/osrelease 2>/dev/null || uname -r)
said kernel.release "$release" /proc/sys/kernel/osrelease
file kernel.version /proc/sys/kernel/version
said kernel.arch "$(uname -m)" uname
file kernel.boot_id /proc/sys/kernel/random/boot_id

# Notes: name size, content size, type, each four bytes; GNU's type 3 is the build id. Byte order as the machine's.
notes=$(od -An -v -tx1 /sys/kernel/notes 2>/dev/null | tr -d ' \n')
case $notes in
  *040000001400000003000000474e5500*) id=${notes#*040000001400000003000000474e5500} ;;
  *000000040000001400000003474e5500*) id=${notes#*000000040000001400000003474e5500} ;;
  *) id= ;;
esac
id=$(printf '%s' "$id" | cut -c 1-40)
if [ ${#id} = 40 ]; then said kernel.build_id "$id" /sys/kernel/notes
elif [ -r /sys/kernel/notes ]; then fact kernel.build_id unknown '' /sys/kernel/notes 'no build-id note of 20 bytes'
else unread kernel.build_id /sys/kernel/notes; fi

os=/etc/os-release
[ -r $os ] || os=/usr/lib/os-release
for pair in id:ID version_id:VERSION_ID pretty_name:PRETTY_NAME; do
  value=$(sed -n "s/^${pair#*:}=//p" $os 2>/dev/null | sed -n 1p | sed -e "s/^[\"']//" -e "s/[\"']\$//")
  if [ -n "$value" ]; then said "os.${pair%%:*}" "$value" $os; else fact "os.${pair%%:*}" no '' $os; fi
done

config=
for path in /proc/config.gz /proc/config "/boot/config-$release" "/lib/modules/$release/config" \
  "/usr/lib/modules/$release/config" "/lib/modules/$release/build/.config"; do
  if [ -r "$path" ]; then
    case $path in *.gz) config=$(gzip -dc "$path" 2>/dev/null) ;; *) config=$(cat "$path") ;; esac
    [ -z "$config" ] || break
  fi
done
if [ -n "$config" ]; then
  selected=$(printf '%s\n' "$config" | grep -E \
    '^(# )?CONFIG_[A-Z0-9_]*(BPF|BTF|PROBE|FTRACE|TRACEPOINT|TRACING|PERF_EVENTS|IKHEADERS|IKCONFIG|MODULES|KALLSYMS|LSM|SECURITY_LOCKDOWN|LOCK_DOWN|CGROUP|MEMCG|NET_CLS_ACT|NET_SCH_INGRESS|NETKIT|XDP_SOCKETS|DIAG|PACKET|NF_TABLES|NETFILTER|IP_NF|IP_SET|VETH|LIRC|DEBUG_INFO|SECCOMP)[A-Z0-9_]*(=| is not set)' |
    sed -e 's/^# \(CONFIG_[A-Z0-9_]*\) is not set$/"\1":"n"/' -e 's/^\(CONFIG_[A-Z0-9_]*\)="\([^"\\]*\)"$/"\1":"\2"/' \
      -e 's/^\(CONFIG_[A-Z0-9_]*\)=\([a-zA-Z0-9_.-]*\)$/"\1":"\2"/' | grep '^"CONFIG_[A-Z0-9_]*":"[^"\\]*"$' | tr '\n' ',')
  fact kconfig yes "{${selected%,}}" "$path"
else
  fact kconfig no '' /proc/config.gz 'no configuration in any of the usual places'
fi

btf=/sys/kernel/btf/vmlinux
if [ -r $btf ] && digest=$(sha256sum $btf 2>/dev/null); then
  size=$(wc -c <$btf | tr -d ' ')
  fact btf.vmlinux yes "{\"size\":$size,\"sha256\":\"${digest%% *}\"}" $btf
else unread btf.vmlinux $btf; fi
if [ -d /sys/kernel/btf ]; then
  fact btf.modules yes "$(list $(ls /sys/kernel/btf | grep -v '^vmlinux$'))" /sys/kernel/btf
else fact btf.modules no '' /sys/kernel/btf '' ENOENT; fi

# Mounts: the place of the first mount of a kind, from /proc/mounts (device place kind …).
place() { sed -n "s/^[^ ]* \([^ ]*\) $1 .*/\1/p" /proc/mounts 2>/dev/null | sed -n 1p; }
for pair in tracefs:tracefs debugfs:debugfs bpffs:bpf securityfs:securityfs; do
  kind=${pair#*:}
  where=$(place "$kind")
  if [ -n "$where" ]; then said "mount.${pair%%:*}" "$where" /proc/mounts
  elif grep -qw "$kind" /proc/filesystems 2>/dev/null; then
    fact "mount.${pair%%:*}" no '' /proc/mounts "the kernel has $kind, it is not mounted"
  else fact "mount.${pair%%:*}" no '' /proc/mounts "the kernel does not have $kind"; fi
done
v1=$(place cgroup) v2=$(place cgroup2)
case ${v1:+1}${v2:+2} in
  12) fact cgroup.mode yes '"hybrid"' /proc/mounts ;;
  1) fact cgroup.mode yes '"v1"' /proc/mounts ;;
  2) fact cgroup.mode yes '"v2"' /proc/mounts ;;
  *) fact cgroup.mode no '' /proc/mounts 'no cgroup file system is mounted' ;;
esac
if [ -n "$v2" ]; then said cgroup.v2_path "$v2" /proc/mounts; else fact cgroup.v2_path no '' /proc/mounts; fi

security=$(place securityfs)
locked=$(sed -n 's/.*\[\(none\|integrity\|confidentiality\)\].*/\1/p' "${security:-/sys/kernel/security}/lockdown" 2>/dev/null)
forced=$(printf '%s\n' "$config" | sed -n 's/^CONFIG_LOCK_DOWN_KERNEL_FORCE_\(INTEGRITY\|CONFIDENTIALITY\)=y$/\1/p' | tr 'A-Z' 'a-z')
booted=$(tr ' ' '\n' </proc/cmdline 2>/dev/null | sed -n 's/^lockdown=\(integrity\|confidentiality\)$/\1/p')
if [ -n "$locked" ]; then said lockdown.mode "$locked" securityfs
elif [ -n "$forced" ]; then said lockdown.mode "$forced" kconfig
elif [ -n "$booted" ]; then said lockdown.mode "$booted" /proc/cmdline
elif [ -n "$config" ] && ! printf '%s\n' "$config" | grep -q 'LOCK_\?DOWN'; then said lockdown.mode none kconfig
else fact lockdown.mode unknown '' /sys/kernel/security/lockdown 'securityfs is not mounted and nothing else tells'; fi
if value=$(cat "${security:-/sys/kernel/security}/lsm" 2>/dev/null); then
  fact lsm.active yes "$(IFS=,; list $value)" securityfs
else fact lsm.active unknown '' /sys/kernel/security/lsm 'could not be read'; fi

names="chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service \
net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin \
sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override \
mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
status() { sed -n "s/^$1:[ 	]*//p" /proc/self/status 2>/dev/null; }
for pair in effective:CapEff bounding:CapBnd; do
  mask=$(status "${pair#*:}")
  if [ -n "$mask" ]; then
    held='' bit=0
    for name in $names; do
      [ $(((0x$mask >> bit) & 1)) = 0 ] || held="$held $name"
      bit=$((bit + 1))
    done
    fact "caps.${pair%%:*}" yes "$(list $held)" /proc/self/status "$mask"
  else fact "caps.${pair%%:*}" unknown '' /proc/self/status; fi
done
mode=$(status Seccomp)
if [ -n "$mode" ]; then fact seccomp.mode yes "$mode" /proc/self/status
else fact seccomp.mode no '' /proc/self/status 'this kernel does not say'; fi

for name in kernel.unprivileged_bpf_disabled kernel.perf_event_paranoid kernel.bpf_stats_enabled kernel.kptr_restrict \
  kernel.modules_disabled kernel.ftrace_enabled kernel.yama.ptrace_scope net.core.bpf_jit_enable \
  net.core.bpf_jit_harden net.core.bpf_jit_limit user.max_user_namespaces; do
  number "sysctl.$name" "/proc/sys/$(printf '%s' "$name" | tr . /)"
done
for pair in soft:S hard:H; do
  lock=$(ulimit -"${pair#*:}" -l)
  case $lock in
    unlimited) fact "memlock.${pair%%:*}" yes -1 ulimit ;;
    '' | *[!0-9]*) fact "memlock.${pair%%:*}" unknown '' ulimit "$lock" ;;
    *) fact "memlock.${pair%%:*}" yes $((lock * 1024)) ulimit ;;
  esac
done

present() { if [ -r "$2" ]; then said "$1" "$2" "$2"; else unread "$1" "$2"; fi; }
present hook.kprobe_pmu /sys/bus/event_source/devices/kprobe/type
present hook.uprobe_pmu /sys/bus/event_source/devices/uprobe/type
tracing=$(place tracefs)
debug=$(place debugfs)
[ -n "$tracing" ] || [ -z "$debug" ] || [ ! -d "$debug/tracing/events" ] || tracing=$debug/tracing
if [ -n "$tracing" ]; then
  present hook.kprobe_events "$tracing/kprobe_events"
  present hook.available_filter_functions "$tracing/available_filter_functions"
  events=$(cd "$tracing/events" 2>/dev/null && ls -d -- */*/ 2>/dev/null | grep -v '^ftrace/' | sed -e 's,/$,,' -e 's,/,:,' |
    grep '^[A-Za-z0-9_]*:[A-Za-z0-9_]*$' | sed -e 's/.*/"&"/' | tr '\n' ',')
  if [ -n "$events" ]; then fact hook.tracepoints yes "[${events%,}]" "$tracing/events"
  else fact hook.tracepoints unknown '' "$tracing/events" 'the folder of events could not be read'; fi
else
  answer=unknown raw='tracefs is not mounted'
  if grep -qw tracefs /proc/filesystems 2>/dev/null; then
    answer=blocked raw='the kernel has tracefs, it is not mounted'
  fi
  for name in kprobe_events available_filter_functions tracepoints; do
    fact hook.$name $answer '' mount.tracefs "$raw"
  done
fi

for path in "/lib/modules/$release/source" "/lib/modules/$release/build" ''; do
  [ -z "$path" ] || [ ! -e "$path/include/linux/kconfig.h" ] || break
done
if [ -n "$path" ]; then said headers.path "$path" "$path/include/linux/kconfig.h"
else fact headers.path no '' "/lib/modules/$release/build" 'not installed'; fi
present headers.kheaders /sys/kernel/kheaders.tar.xz
fact bcc.usable no '' python3 'no usable python3 on this host'
fact python.path no '' python3 'no usable python3 on this host'
fact python.version no '' python3 'no usable python3 on this host'

for pair in iptables:-V ipset:-v tc:-V nft:-v ip:-V; do
  tool=${pair%%:*}
  if command -v "$tool" >/dev/null 2>&1; then
    version=$("$tool" "${pair#*:}" 2>&1 | sed -n 1p | grep -o '[0-9][0-9]*\.[0-9].*')
    if [ -n "$version" ]; then said "tool.$tool" "$version" "$tool ${pair#*:}"
    else fact "tool.$tool" unknown '' "$tool ${pair#*:}"; fi
    [ "$tool" != iptables ] || case $version in
      '') ;;
      *nf_tables*) said netfilter.backend nft 'iptables -V' ;;
      *) said netfilter.backend legacy 'iptables -V' ;;
    esac
  else
    fact "tool.$tool" no '' "$tool ${pair#*:}" 'not installed'
    [ "$tool" != iptables ] || fact netfilter.backend no '' 'iptables -V' 'not installed'
  fi
done
fact netfilter.rules unknown '' sh 'the sh form cannot ask both back ends'

interfaces='' comma=
for path in /sys/class/net/*; do
  [ -r "$path/mtu" ] || continue
  driver=$(readlink "$path/device/driver" 2>/dev/null)
  name=${path##*/}
  addresses=$(ip -o address show dev "$name" 2>/dev/null | sed -n 's,.* inet6* \([0-9a-f.:]*\)/.*,\1,p')
  interfaces="$interfaces$comma{\"name\":\"$(text "$name")\",\"driver\":\"$(text "${driver##*/}")\",\"mtu\":$(cat "$path/mtu"),\
\"kind\":\"\",\"xdp\":null,\"addresses\":$(list $addresses)}"
  comma=,
done
fact net.interfaces yes "[$interfaces]" /sys/class/net
inode=$(readlink /proc/self/ns/net 2>/dev/null | tr -cd 0-9)
if [ -n "$inode" ]; then fact net.namespace yes "$inode" /proc/self/ns/net
else fact net.namespace unknown '' /proc/self/ns/net; fi
fact probe.sock_diag_destroy unknown '' sh 'the sh form opens no sockets'
fact probe.af_packet unknown '' sh 'the sh form opens no sockets'

page=$(getconf PAGE_SIZE 2>/dev/null)
case $page in '' | *[!0-9]*) fact system.page_size unknown '' getconf ;; *) fact system.page_size yes "$page" getconf ;; esac
cpus=$(grep -c '^processor' /proc/cpuinfo 2>/dev/null)
case $cpus in '' | 0) fact system.cpus unknown '' /proc/cpuinfo ;; *) fact system.cpus yes "$cpus" /proc/cpuinfo ;; esac
memory=$(sed -n 's/^MemTotal:[ 	]*\([0-9]*\) kB$/\1/p' /proc/meminfo 2>/dev/null)
if [ -n "$memory" ]; then fact system.memory_bytes yes $((memory * 1024)) /proc/meminfo
else fact system.memory_bytes unknown '' /proc/meminfo; fi

fact bpf.syscall unknown '' sh 'the sh form cannot call bpf()'
fact bpf.reliable unknown '' sh 'the sh form cannot call bpf()'
printf '},"took_ms":%s}\n' $((($(date +%s) - began) * 1000))
