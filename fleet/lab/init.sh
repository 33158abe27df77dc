#!/bin/sh
# First process of a lab host, inside its own network, mount, pid, ipc and uts namespaces. It makes the host's file
# systems its own, applies the host's traits and runs its sshd until it is told to stop.
# Environment: LAB_NAME, LAB_TRAITS (words), LAB_FILES (folder with sshd_config, host_key, authorized_keys, empty).
set -eu

hostname "$LAB_NAME"
mount --make-rprivate /

# A fresh sysfs shows this host's interfaces; the cgroup tree is carried over.
mkdir -p "$LAB_FILES/cgroup"
mount --rbind /sys/fs/cgroup "$LAB_FILES/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$LAB_FILES/cgroup" /sys/fs/cgroup
umount -l "$LAB_FILES/cgroup"
mount -t bpf bpf /sys/fs/bpf
mount -t proc proc /proc

# The host's own state: nothing of it outlives the host.
mkdir -p /var/lib/corollout
mount -t tmpfs -o mode=755 tmpfs /var/lib/corollout
mount --bind "$LAB_FILES" /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/lab
cp -r /mnt/. /run/lab/
umount /mnt
mount -t tmpfs tmpfs /tmp
mount -t tmpfs -o mode=700 tmpfs /root
chmod 600 /run/lab/host_key /run/lab/authorized_keys

run_sshd() { /usr/sbin/sshd -D -e -f /run/lab/sshd_config & }

for trait in $LAB_TRAITS; do
  case $trait in
    tracefs) mount -t tracefs tracefs /sys/kernel/tracing ;;
    securityfs) mount -t securityfs securityfs /sys/kernel/security ;;
    no-btf) mount -t tmpfs -o ro tmpfs /sys/kernel/btf ;;
    no-python)
      for python in /usr/bin/python3* /usr/local/bin/python3*; do
        [ -e "$python" ] && mount --bind /run/lab/empty "$python"
      done ;;
    silent)
      # Accepts and says nothing, as a host does whose disk or memory is gone.
      run_sshd() { /usr/bin/python3 /run/lab/silent.py & } ;;
  esac
done

trap 'exit 0' TERM INT
run_sshd
while :; do wait $! || :; sleep 1 & done
