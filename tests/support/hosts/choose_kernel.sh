# Sourced by boot.sh in the new root: which kernel the host pretends to run, in run/kernel_release.
# The entry that grub-reboot named is booted once, then the default again.
if [ -e etc/default_kernel ]; then
	cat etc/default_kernel >run/kernel_release
	if [ -e boot/grub/next_entry ]; then
		entry=$(cat boot/grub/next_entry)
		rm boot/grub/next_entry
		# "Debian GNU/Linux, with Linux 6.1.0-1-amd64" or an id that ends in -advanced-…
		release=$(for image in boot/vmlinuz-*; do
			each=${image#boot/vmlinuz-}
			case "$entry" in *"$each" | *"$each-advanced"*) echo "$each" ;; esac
		done | awk '{ if (length($0) > length(longest)) longest = $0 } END { print longest }')
		[ ! -e etc/boots_wrong_kernel ] || release=
		[ -z "$release" ] || echo "$release" >run/kernel_release
	fi
	mount --bind run/kernel_release proc/sys/kernel/osrelease
fi
