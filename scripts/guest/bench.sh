# Sourced by guest-image: kernel and initramfs of the machine that scripts/kvm-bench runs commands
# in. It is Debian's general kernel, since the cloud kernel is built without KVM.
# shellcheck shell=bash disable=SC2154 # the variables are those of guest-image

readonly bench_kernel_meta_package=linux-image-amd64
# KVM on an AMD processor, what the machine gets its files and its terminal through, and what tests
# use on the host: taps, bridges and namespaces, vsock without a hypervisor below.
readonly bench_modules=(virtio_pci virtio_console 9p 9pnet_virtio overlay kvm_amd tun bridge veth
    vsock_loopback)
# Where those are in the tree, with all that they need; unpacking the others would take a minute.
readonly bench_module_parts=(kernel/arch/x86 kernel/virt kernel/crypto kernel/lib kernel/mm
    kernel/drivers/crypto/ccp kernel/drivers/char kernel/drivers/virtio kernel/drivers/net/tun
    kernel/drivers/net/veth kernel/fs/9p kernel/fs/netfs kernel/fs/fscache kernel/fs/overlayfs
    kernel/net/9p kernel/net/vmw_vsock kernel/net/bridge kernel/net/802 kernel/net/llc)
readonly bench_kernel_options=(BLK_DEV_INITRD DEVTMPFS TMPFS PROC_FS SYSFS SERIAL_8250_CONSOLE PVH
    NET_NS UNIX)

require_tools_of_bench() { require_commands xz xz-utils awk mawk; }

tools_of_bench() { :; }

input_of_bench() {
    source_checksums scripts/guest-image scripts/guest/{packages,cpio,serial,disk,vmlinux,bench}.sh \
        tests/guests/bench
    # busybox comes with the serial guest.
    cat "$cache/packages"
}

resolve_and_download_bench() {
    local kernel
    rm -f "$work/packages"
    step "looking up $bench_kernel_meta_package"
    kernel=$(resolve_kernel "$bench_kernel_meta_package") || return 1
    step "downloading ${kernel/ / }"
    # shellcheck disable=SC2086 # two words
    download_package $kernel
}

get_bench_packages() {
    if [[ -n $refresh ]] || ! packages_are_cached "$cache/bench-packages"; then
        with_current_lists resolve_and_download_bench
        mv -f "$work/packages" "$cache/bench-packages"
    fi
    cp "$cache/bench-packages" "$work/packages"
}

bench_archive() {
    local busybox=$1 modules=$2 file
    begin_archive
    directory bin
    executable bin/busybox "$busybox"
    symbolic_link bin/sh busybox
    directory changes
    directory dev
    character_device dev/console 5 1
    executable init "$sources/bench/init"
    directory lower
    directory modules
    while read -r file; do
        executable "modules/${file##*/}" "$modules/$file"
    done < "$work/module-files"
    # The order to load them in.
    sed 's,.*/,,' "$work/module-files" > "$work/module-order"
    executable modules/order "$work/module-order"
    directory proc
    directory root
    executable run-command "$sources/bench/run-command"
    directory sys
    end_archive
}

take_bench_kernel() {
    local kernel=$1 vmlinuz config option
    step "unpacking $kernel"
    mkdir -p "$work/kernel"
    dpkg-deb --fsys-tarfile "$cache/$kernel.deb" | tar -x -C "$work/kernel" ./boot ||
        fail "cannot unpack $kernel"
    vmlinuz=$(find "$work/kernel/boot" -name 'vmlinuz-*' -type f)
    config=$(find "$work/kernel/boot" -name 'config-*' -type f)
    [[ -f $vmlinuz && -f $config ]] || fail "$kernel has no vmlinuz or no config in /boot"
    for option in "${bench_kernel_options[@]}"; do
        grep -q "^CONFIG_$option=y\$" "$config" ||
            fail "$kernel is built without CONFIG_$option=y, which the bench needs"
    done
    extract_vmlinux "$vmlinuz" "$work/bench.vmlinux"
}

make_bench() {
    local kernel busybox modules
    get_bench_packages
    kernel=$(sed -n 's/^\(linux-image-[^ ]*\) .*/\1/p' "$work/packages")
    take_bench_kernel "$kernel"
    step "making bench.cpio"
    busybox=$(unpack_busybox)
    check_syntax "$busybox" bench/init bench/run-command
    modules=$(unpack_modules "$work/modules" "$busybox" "$kernel" "${bench_module_parts[@]}")
    modules_in_order "$modules" "${bench_modules[@]}" > "$work/module-files" ||
        fail "$kernel lacks a module"
    bench_archive "$busybox" "$modules" > "$work/bench.cpio"
}
