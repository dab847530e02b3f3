# Sourced by guest-image: the initramfs that mounts a root disk, and ext4 disks from folders.
# Nothing is mounted for this, and root is not needed.
# shellcheck shell=bash disable=SC2154 # the variables are those of guest-image

# All times in the disks, and the disks' own: 2001-09-09, which no guest's clock is behind.
readonly disk_time_s=1000000000
# What the guests with a disk use that the cloud kernel has as modules; those it has built in are
# skipped, and those that these depend on are added.
readonly module_names=(virtio_pci virtio_blk virtio_net virtio_console virtio_rng virtio_balloon
    vmw_vsock_virtio_transport ext4 crc32c_generic button evdev)
# Spelled out, so that the disks do not depend on the version or the configuration of mke2fs.
readonly ext4_features=none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit
readonly more_ext4_features=flex_bg,sparse_super,large_file,dir_nlink,extra_isize,metadata_csum

# --- disk.cpio --------------------------------------------------------------------------------

require_tools_of_disk() { require_commands xz xz-utils; }

tools_of_disk() { :; }

input_of_disk() {
    source_checksums scripts/guest-image scripts/guest/{packages,cpio,serial,disk}.sh \
        tests/guests/jobs.sh tests/guests/disk/initramfs
    cat "$cache/packages"
}

# unpack_modules FOLDER BUSYBOX KERNEL [PART]...: unpacks the kernel's modules, or those in the
# parts of its tree, below FOLDER, uncompressed, with the index of what needs what.
unpack_modules() {
    local folder=$1 busybox=$2 kernel=$3 version part patterns=()
    shift 3
    version=${kernel#linux-image-}
    mkdir -p "$folder"
    [[ $# -gt 0 ]] || set -- ''
    # Debian 12 has them in /lib, Debian 13 in /usr/lib.
    for part in ${1:+modules.} "$@"; do
        patterns+=("./lib/modules/*/$part*" "./usr/lib/modules/*/$part*")
    done
    dpkg-deb --fsys-tarfile "$cache/$kernel.deb" |
        tar -x -C "$folder" --wildcards --strip-components=1 --transform 's,^\./usr/,./,' \
            "${patterns[@]}" 2> /dev/null || true
    [[ -d $folder/lib/modules/$version/kernel ]] || fail "$kernel has no modules"
    find "$folder/lib" -name '*.ko.xz' -print0 | xargs -0 -r xz --decompress
    quietly "$busybox" depmod -b "$folder" "$version" || fail "depmod fails for $version"
    echo "$folder/lib/modules/$version"
}

# modules_in_order FOLDER NAME...: prints the files of the modules, each after those that it needs.
modules_in_order() {
    local folder=$1
    shift
    awk -v wanted="$*" '
        function plain(path) {
            sub(/.*\//, "", path); sub(/\.ko.*/, "", path); gsub(/-/, "_", path)
            return path
        }
        function add(name, words, count, i) {
            if (name in added) return
            added[name] = 1
            count = split(needs[name], words, " ")
            for (i = count; i >= 1; i--) add(plain(words[i]))
            print file[name]
        }
        FILENAME ~ /modules\.builtin$/ { builtin[plain($1)] = 1; next }
        {
            line = $0; sub(/^[^:]*:/, "", line)
            path = $1; sub(/:$/, "", path)
            file[plain(path)] = path; needs[plain(path)] = line
        }
        END {
            count = split(wanted, names, " ")
            for (n = 1; n <= count; n++) {
                if (names[n] in file) add(names[n])
                else if (!(names[n] in builtin)) {
                    print "no module " names[n] > "/dev/stderr"
                    exit 1
                }
            }
        }' "$folder/modules.builtin" "$folder/modules.dep"
}

disk_archive() {
    local busybox=$1 modules=$2 file
    begin_archive
    directory bin
    executable bin/busybox "$busybox"
    executable bin/guest "$work/guest"
    symbolic_link bin/sh busybox
    directory dev
    character_device dev/console 5 1
    executable init "$sources/disk/initramfs"
    executable jobs.sh "$sources/jobs.sh"
    directory modules
    while read -r file; do
        executable "modules/${file##*/}" "$modules/$file"
    done < "$work/module-files"
    # The order to load them in.
    sed 's,.*/,,' "$work/module-files" > "$work/module-order"
    executable modules/order "$work/module-order"
    directory proc
    directory root
    directory sys
    directory tmp
    end_archive
}

make_disk() {
    local busybox modules
    step "making disk.cpio"
    cp "$cache/packages" "$work/packages"
    busybox=$(unpack_busybox)
    check_syntax "$busybox" disk/initramfs jobs.sh
    modules=$(unpack_modules "$work/modules" "$busybox" "$(kernel_package)")
    modules_in_order "$modules" "${module_names[@]}" > "$work/module-files" ||
        fail "the kernel lacks a module"
    take_guest_program "$busybox"
    disk_archive "$busybox" "$modules" > "$work/disk.cpio"
}

# The program of the serial guest, from its initramfs: it is built once for all guests.
take_guest_program() {
    mkdir -p "$work/serial"
    (cd "$work/serial" && quietly "$1" cpio -id bin/guest < "$out/serial.cpio") ||
        fail "serial.cpio cannot be read"
    mv "$work/serial/bin/guest" "$work/guest"
}

# --- root disks -------------------------------------------------------------------------------
#
# A disk is made with debugfs from a folder and a list of what is in it, so that neither root nor a
# mount is needed, and so that the order in which the host's file system lists names does not matter
# (as it does for mke2fs -d). The list has a line for each name, sorted, with tabs in between:
#   TYPE  MODE  UID  GID  PATH  [TARGET]
# TYPE is d, f or l; MODE is octal; PATH has no slash in front; TARGET is a symbolic link's.

require_tools_of_root_disks() {
    local PATH=$PATH:/usr/sbin:/sbin
    require_commands mke2fs e2fsprogs debugfs e2fsprogs awk mawk fallocate util-linux
}

tools_of_root_disks() {
    dpkg-query -W -f 'tool e2fsprogs ${Version}\n' e2fsprogs
}

# Prints debugfs commands that put all of the list into an empty file system.
debugfs_commands() {
    local tree=$1 type mode uid gid path target folder name current=
    while IFS=$'\t' read -r type mode uid gid path target; do
        folder=
        [[ $path != */* ]] || folder=${path%/*}
        [[ $folder == "$current" ]] || printf 'cd "/%s"\n' "$folder"
        current=$folder
        name=${path##*/}
        mode=000$mode
        mode=${mode: -4}
        case $type in
        d)
            printf 'mkdir "%s"\n' "$name"
            mode=04$mode
            ;;
        f)
            printf 'write "%s/%s" "%s"\n' "$tree" "$path" "$name"
            mode=010$mode
            ;;
        l)
            printf 'symlink "%s" "%s"\n' "$name" "$target"
            mode=012$mode
            ;;
        *) fail "$path: a disk cannot have a file of type $type" ;;
        esac
        printf 'sif "%s" mode %s\n' "$name" "$mode"
        printf 'sif "%s" uid %s\nsif "%s" gid %s\n' "$name" "$uid" "$name" "$gid"
    done
}

# The times that mke2fs took from the clock: those of the root, the reserved inodes, lost+found, the
# superblock.
fixed_time_commands() {
    local inode field
    for inode in 1 2 7 8 11; do
        for field in atime ctime mtime crtime; do
            printf 'sif <%d> %s @%d\nsif <%d> %s_extra 0\n' "$inode" "$field" "$disk_time_s" \
                "$inode" "$field"
        done
    done
    for field in mkfs_time lastcheck wtime; do
        printf 'ssv %s @%d\n' "$field" "$disk_time_s"
    done
    # The superblock's copies have these times too. e2fsck writes them anew if they lack a feature;
    # this one is for files beyond 2 TiB.
    echo 'feature huge_file'
}

# make_root_disk TREE LIST NAME UUID: makes $work/NAME.raw; MIB and INODES are the caller's.
make_root_disk() {
    local tree=$1 list=$2 disk=$work/$3.raw uuid=$4 PATH=$PATH:/usr/sbin:/sbin
    rm -f "$disk"
    truncate -s "${disk_mib}M" "$disk"
    MKE2FS_CONFIG=/dev/null quietly mke2fs -F -q -t ext4 -b 4096 -I 256 -N "$disk_inodes" -m 1 \
        -O "$ext4_features,$more_ext4_features" -J size=16 -L "$3" -U "$uuid" \
        -E "hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" \
        -o Linux "$disk" || fail "mke2fs fails"
    {
        printf 'set_current_time @%d\n' "$disk_time_s"
        debugfs_commands "$tree" < "$list"
        fixed_time_commands
    } > "$work/debugfs-commands"
    # debugfs tells of errors in words only. Its first line is its version.
    local -x E2FSPROGS_FAKE_TIME=$disk_time_s E2FSCK_TIME=$disk_time_s
    debugfs -w -f "$work/debugfs-commands" "$disk" \
        > "$work/debugfs-output" 2> "$work/debugfs-errors" || fail "debugfs fails"
    if sed 1d "$work/debugfs-errors" | grep -m 5 . >&2; then
        fail "debugfs cannot fill $3.raw"
    fi
    # It says with its status that it has written.
    quietly e2fsck -fy "$disk" || [[ $? -eq 1 ]] || fail "e2fsck fails"
    quietly e2fsck -fn "$disk" || fail "$3.raw has errors in its file system"
    fallocate --dig-holes "$disk"
}
