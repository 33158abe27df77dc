#!/bin/busybox sh
# First process of a host guest: loads the modules its disk needs, lays the guest's own files over the root file
# system, which forgets everything at the end, and hands over to guest_init.sh.
/bin/busybox mount -t devtmpfs none /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod "/modules/$module"; done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root || { echo "guest: no root file system"; exit 1; }
/bin/busybox cp -a /files/. /root/
exec /bin/busybox switch_root /root /bin/sh /etc/corollout/init.sh
