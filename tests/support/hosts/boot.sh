#!/bin/sh
# The first process of a host: DISK NAME. It takes the disk as its root, and serves SSH.
set -eu
disk=$1
name=$2

mount -t overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" root "$disk/root"
cd "$disk/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 dev dev
for each in null:666:1:3 zero:666:1:5 full:666:1:7 random:666:1:8 urandom:666:1:9 tty:666:5:0; do
	IFS=: read -r node mode major minor <<-EOF
		$each
	EOF
	mknod -m "$mode" "dev/$node" c "$major" "$minor"
done
[ ! -c /dev/kvm ] || mknod -m 600 dev/kvm c $((0x$(stat -c %t /dev/kvm))) $((0x$(stat -c %T /dev/kvm)))
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir run/sshd run/lock
cp "$disk/boot_id" run/boot_id
# What would change the kernel that all hosts share can't be written. sysrq reboots this machine.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind run/boot_id proc/sys/kernel/random/boot_id
for each in irq timer_list kcore; do
	[ ! -e "proc/$each" ] || {
		mount --bind "proc/$each" "proc/$each"
		mount -o remount,bind,ro "proc/$each"
	}
done
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
# The kernel that it pretends to have booted.
if [ -e "$disk/kernel_release" ]; then
	cp "$disk/kernel_release" "$disk/kernel_version" run/
	mount --bind run/kernel_release proc/sys/kernel/osrelease
	echo "Linux version $(cat run/kernel_release) $(cat run/kernel_version)" >run/kernel_banner
	mount --bind run/kernel_banner proc/version
fi
hostname "$name"
ip link set lo up
pivot_root . mnt
cd /
umount -l mnt
caps=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_admin
caps=$caps,+net_bind_service,+net_raw,+sys_chroot,+sys_ptrace,+sys_nice,+ipc_lock,+audit_write
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	setpriv --bounding-set "$caps" --inh-caps=-all sh /usr/sbin/first-process
