#!/bin/sh
# Process 1 of a host guest: makes the host that /etc/corollout/guest describes (NAME PORT ADDRESS GATEWAY LIFE_S
# HIDE_BTF CGROUP MOUNTS SYSCTLS INIT), then hands over to INIT, or without one runs its sshd until the machine ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
. /etc/corollout/guest

if [ -n "$INIT" ]; then # it mounts and starts everything itself, but for the network
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  ip link set eth0 up
  ip address add "$ADDRESS/24" dev eth0
  ip route add default via "$GATEWAY"
  echo "SSHD_OPTS=-p $PORT" >/etc/default/ssh
  [ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
  (sleep "$LIFE_S"; echo o >/proc/sysrq-trigger) &
  exec "$INIT"
fi

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname "$NAME"

for name in $MOUNTS; do
  case $name in
    bpffs) mount -t bpf bpf /sys/fs/bpf ;;
    debugfs) mount -t debugfs debugfs /sys/kernel/debug ;;
    securityfs) mount -t securityfs securityfs /sys/kernel/security ;;
    tracefs) mount -t tracefs tracefs /sys/kernel/tracing ;;
  esac
done
if [ "$CGROUP" = v2 ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for controller in cpu memory pids net_cls; do
    mkdir -p "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
  done
  if [ "$CGROUP" = hybrid ]; then
    mkdir -p /sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
  fi
fi
[ -z "$HIDE_BTF" ] || mount -t tmpfs -o ro,size=4k tmpfs /sys/kernel/btf
for setting in $SYSCTLS; do
  echo "${setting#*=}" >"/proc/sys/$(echo "${setting%%=*}" | tr . /)"
done

ip link set lo up
ip link set eth0 up
ip address add "$ADDRESS/24" dev eth0
ip route add default via "$GATEWAY"

(sleep "$LIFE_S"; echo o >/proc/sysrq-trigger) & # nobody needs it any more
mkdir -p /run/sshd
/usr/sbin/sshd -D -e -p "$PORT" 2>/dev/console &
while :; do wait $! || :; sleep 1; done
