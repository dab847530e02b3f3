# Sourced by guest-image: the root disk with Debian as users have it, with systemd.
# shellcheck shell=bash disable=SC2154 # the variables are those of guest-image

readonly systemd_packages=('?essential' apt ca-certificates curl dbus iproute2 kmod less
    libpam-systemd nano openssh-server procps redis-server systemd-sysv systemd-timesyncd udev
    usr-is-merged)
readonly systemd_uuid=5e7e75e7-0000-4000-8000-000000000002

require_tools_of_systemd() {
    require_tools_of_root_disks
    require_commands mmdebstrap mmdebstrap
}

tools_of_systemd() {
    tools_of_root_disks
    dpkg-query -W -f 'tool mmdebstrap ${Version}\n' mmdebstrap
}

input_of_systemd() {
    source_checksums scripts/guest-image scripts/guest/{packages,disk,systemd}.sh
    cat "$cache/packages"
}

# Prints an index, as a Debian mirror has it, of the packages of the set. apt has checked them when
# they were downloaded, and their checksums were compared since.
package_index() {
    local name version sum file
    while read -r name version sum file; do
        dpkg-deb --field "$cache/archives/$file"
        printf 'Filename: %s\nSize: %d\nSHA256: %s\n\n' "./$file" \
            "$(stat -c %s "$cache/archives/$file")" "$sum"
    done < "$work/set"
}

# A mirror with this set and nothing else, so that a disk is made from the list, whatever has become
# newer since.
make_mirror() {
    local mirror=$1 name version sum file
    mkdir -p "$mirror"
    while read -r name version sum file; do
        # In the mirror names are as apt would ask for them.
        ln "$cache/archives/$file" "$mirror/$file" 2> /dev/null ||
            cp "$cache/archives/$file" "$mirror/$file"
    done < "$work/set"
    package_index > "$mirror/Packages"
    chmod 755 "$work"
}

# What a user would set up by hand in the folder that mmdebstrap has installed into ("$1").
write_customization() {
    cat > "$work/customize" <<'SCRIPT'
#!/bin/sh
set -eu
root=$1
version=$2
modules=$3
release=$(. "$root/etc/os-release" && echo "$VERSION_CODENAME")
cat > "$root/etc/apt/sources.list" <<TEXT
deb http://deb.debian.org/debian $release main
deb http://deb.debian.org/debian $release-updates main
deb http://security.debian.org/debian-security $release-security main
TEXT
echo systemd > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tsystemd\n' > "$root/etc/hosts"
printf 'nameserver 10.0.2.3\n' > "$root/etc/resolv.conf"
printf '/dev/vda / ext4 defaults 0 1\n' > "$root/etc/fstab"
# A test guest: root has no password. It belongs on a network of its own.
sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
printf 'PermitRootLogin yes\nPermitEmptyPasswords yes\n' > "$root/etc/ssh/sshd_config.d/guest.conf"
# Keys of its own are made at the first start: the disk is the same for everyone.
rm -f "$root"/etc/ssh/ssh_host_*
mkdir -p "$root/etc/systemd/system/ssh.service.d"
cat > "$root/etc/systemd/system/ssh.service.d/keys.conf" <<TEXT
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
TEXT
# DHCP, unless the kernel command line has ip=.
cat > "$root/etc/systemd/network/95-guest.network" <<TEXT
[Match]
Name=en* eth*
[Network]
DHCP=ipv4
TEXT
sed -i 's/^bind .*/bind 0.0.0.0/; s/^protected-mode .*/protected-mode no/
    s/^appendonly .*/appendonly yes/; s/^appendfsync .*/appendfsync always/' \
    "$root/etc/redis/redis.conf"
mkdir -p "$root/lib/modules"
cp -R "$modules/$version" "$root/lib/modules/"
chroot "$root" depmod "$version"
chroot "$root" systemctl enable systemd-networkd ssh redis-server > /dev/null 2>&1
SCRIPT
    chmod 755 "$work/customize"
}

# Prints the list for make_root_disk from the archive that mmdebstrap has made.
list_archive() {
    tar -t -v --numeric-owner --full-time --quoting-style=literal -f "$1" |
        awk -v OFS='\t' '
            function digit(bits, special, letter) {
                value = (substr(bits, 1, 1) == "r") * 4 + (substr(bits, 2, 1) == "w") * 2
                letter = substr(bits, 3, 1)
                if (letter ~ /[xst]/) value++
                if (letter ~ /[sStT]/) specials += special
                return value
            }
            {
                type = substr($1, 1, 1); if (type == "-" || type == "h") type = "f"
                specials = 0
                mode = digit(substr($1, 2, 3), 4) "" digit(substr($1, 5, 3), 2) "" \
                    digit(substr($1, 8, 3), 1)
                split($2, owner, "/")
                link = substr($1, 1, 1)
                path = $0; sub(/^[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ +\.\//, "", path)
                sub(/\/$/, "", path)
                target = ""
                if (link == "l") { at = index(path, " -> "); target = substr(path, at + 4) }
                if (link == "h") at = index(path, " link to ")
                if (link == "l" || link == "h") path = substr(path, 1, at - 1)
                if (path == "" || path ~ /^dev\//) next
                print type, specials mode, owner[1], owner[2], path, target
            }' | sort -t $'\t' -k 5,5
}

make_systemd() {
    local tree=$work/tree mirror=$work/mirror disk_mib=2048 disk_inodes=65536 kernel modules busybox
    get_package_set systemd 'none' "${systemd_packages[@]}"
    step "installing $(wc -l < "$work/set") packages"
    busybox=$(unpack_busybox)
    modules=$(unpack_modules "$work/modules" "$busybox")
    kernel=$(kernel_package)
    grep "^$kernel " "$cache/packages" >> "$work/packages"
    make_mirror "$mirror"
    write_customization
    # Without root mmdebstrap acts as users that may be unable to work below our folder.
    local -x TMPDIR=${TMPDIR:-/tmp}
    [[ $EUID -ne 0 ]] || TMPDIR=$work
    quietly mmdebstrap --mode=auto --variant=apt --format=tar \
        --skip=chroot/mount,check/signed-by \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --include="$(cut -d ' ' -f 1 "$work/set" | paste -s -d ,)" \
        --customize-hook="$work/customize \"\$1\" ${kernel#linux-image-} ${modules%/*}" \
        '' "$work/root.tar" "deb [trusted=yes] copy://$mirror ./" ||
        fail "mmdebstrap fails"
    step "making systemd.raw"
    list_archive "$work/root.tar" > "$work/list"
    mkdir "$tree"
    tar -x -C "$tree" --no-same-owner --exclude='./dev/*' -f "$work/root.tar"
    chmod -R u+rwX "$tree"
    echo 5e7e75e7000040008000000000000002 > "$tree/etc/machine-id"
    make_root_disk "$tree" "$work/list" systemd "$systemd_uuid"
}
