# Sourced by guest-image: the kernel and the serial guest.
# shellcheck shell=bash disable=SC2154 # the variables are those of guest-image

readonly kernel_meta_package=linux-image-cloud-amd64
# What the guests need from the kernel without loading a module.
readonly kernel_options=(BLK_DEV_INITRD DEVTMPFS PROC_FS SYSFS TTY BINFMT_ELF BINFMT_SCRIPT
    SERIAL_8250 SERIAL_8250_CONSOLE ACPI PVH)

# --- packages ---------------------------------------------------------------------------------

resolve_and_download() {
    local kernel busybox
    rm -f "$work/packages"
    step "looking up $kernel_meta_package and busybox-static"
    kernel=$(resolve_kernel "$kernel_meta_package") || return 1
    busybox=$(resolve_package busybox-static) || return 1
    step "downloading ${kernel/ / } and $busybox"
    # shellcheck disable=SC2086 # two words each
    download_package $kernel && download_package $busybox
}

# True if the packages of an earlier run, in a list that it left, are still there, unharmed.
packages_are_cached() {
    local name version sum
    [[ -s $1 ]] || return 1
    while read -r name version sum; do
        [[ -n $version && -f $cache/$name.deb && $(checksum "$cache/$name.deb") == "$sum" ]] ||
            return 1
    done < "$1"
}

get_packages() {
    if [[ -n $refresh ]] || ! packages_are_cached "$cache/packages"; then
        with_current_lists resolve_and_download
        mv -f "$work/packages" "$cache/packages"
    fi
    cp "$cache/packages" "$work/packages"
}

kernel_package() { sed -n 's/^\(linux-image-[^ ]*\) .*/\1/p' "$cache/packages"; }

# --- tools ------------------------------------------------------------------------------------

require_tools_of_serial() {
    local missing=()
    current_step="checking the tools"
    command -v rustc > /dev/null ||
        fail "rustc is missing: install Rust with rustup, as for building the repository"
    command -v cc > /dev/null || missing+=(gcc)
    # The guest program is linked statically.
    [[ -e $(cc -print-file-name=libc.a 2> /dev/null) ]] || missing+=(libc6-dev)
    [[ ${#missing[@]} -eq 0 ]] || install_packages "${missing[@]}"
}

tools_of_serial() {
    rustc -vV | sed -n 's/^release: /tool rustc /p; s/^commit-hash: /tool rustc-commit /p'
    echo "tool cc $(cc -dumpfullversion)"
    dpkg-query -W -f 'tool libc6-dev ${Version}\n' libc6-dev
}

# Packages apart: those of an earlier run are used until --refresh.
input_of_serial() {
    source_checksums scripts/guest-image scripts/guest/{packages,cpio,serial}.sh \
        tests/guests/{init,jobs.sh} tests/guests/guest
}

# --- the guest program ------------------------------------------------------------------------

build_guest_program() {
    local sysroot commit
    step "building the guest program"
    sysroot=$(rustc --print sysroot)
    commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
    # Paths of this machine must not reach the binary: not those of the sources, and not those of
    # the standard library, whose place depends on whether its sources are installed.
    quietly rustc --edition 2024 --crate-name guest "$sources/guest/main.rs" -o "$work/guest" \
        -C opt-level=s -C panic=abort -C lto=fat -C codegen-units=1 -C strip=symbols \
        -C target-feature=+crt-static -C relocation-model=static -C target-cpu=x86-64 \
        -C link-arg=-Wl,--build-id=none \
        --remap-path-prefix "$sources=guests" \
        --remap-path-prefix "$sysroot/lib/rustlib/src/rust=/rustc/$commit" ||
        fail "the guest program does not compile"
}

# --- the initramfs ----------------------------------------------------------------------------

serial_archive() {
    local busybox=$1
    begin_archive
    directory bin
    executable bin/busybox "$busybox"
    executable bin/guest "$work/guest"
    symbolic_link bin/sh busybox
    directory dev
    character_device dev/console 5 1
    executable init "$sources/init"
    executable jobs.sh "$sources/jobs.sh"
    directory proc
    directory sys
    directory tmp
    end_archive
}

# Unpacks busybox and prints where it is: in /bin on Debian 12, in /usr/bin on Debian 13.
unpack_busybox() {
    local busybox
    unpack busybox-static "$work/busybox"
    busybox=$(find "$work/busybox" -path '*/bin/busybox' -type f)
    [[ -f $busybox ]] || fail "busybox-static has no bin/busybox"
    echo "$busybox"
}

# check_syntax BUSYBOX SCRIPT...
check_syntax() {
    local busybox=$1 script
    shift
    for script; do
        "$busybox" sh -n "$sources/$script" || fail "tests/guests/$script has a syntax error"
    done
}

make_initramfs() {
    local busybox
    step "making serial.cpio"
    busybox=$(unpack_busybox)
    check_syntax "$busybox" init jobs.sh
    serial_archive "$busybox" > "$work/serial.cpio"
}

# --- the kernel -------------------------------------------------------------------------------

take_kernel() {
    local kernel vmlinuz config option
    kernel=$(kernel_package)
    step "unpacking $kernel"
    unpack "$kernel" "$work/kernel"
    vmlinuz=$(find "$work/kernel/boot" -name 'vmlinuz-*' -type f)
    config=$(find "$work/kernel/boot" -name 'config-*' -type f)
    [[ -f $vmlinuz && -f $config ]] || fail "$kernel has no vmlinuz or no config in /boot"
    for option in "${kernel_options[@]}"; do
        grep -q "^CONFIG_$option=y\$" "$config" ||
            fail "$kernel is built without CONFIG_$option=y, which the guest needs"
    done
    cp "$vmlinuz" "$work/vmlinuz"
    # An initramfs with modules is for one kernel only.
    cmp -s "$work/vmlinuz" "$out/vmlinuz" || rm -f "$out/disk.cpio"
}

make_serial() {
    get_packages
    take_kernel
    build_guest_program
    make_initramfs
}
