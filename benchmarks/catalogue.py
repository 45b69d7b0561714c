"""What the nodes of a generated fleet can have installed: packages of five releases, and their updates over time.

Names are those of well-known projects in the manner of Debian and of Red Hat; their versions are made up,
those of openssl apart, but are written as the two write them. Pure: everything follows from the seed.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

DAY_S = 86400.0
HISTORY_DAYS = 180  # updates there were before the fleet was first asked: what lagging nodes lack

_PROJECTS = """
acl acpid aide alsa ansible apache2 apparmor argon2 aspell at atk attr audit augeas autofs automake avahi bash bc
bcache bind9 binutils bison blkid borg brotli btrfs bzip2 cairo caps certbot checkpolicy chrony cifs cjson cloud-init
cockpit collectd conntrack coreutils corosync cracklib cron cryptsetup cups curl cyrus dash dbus dconf debconf dejagnu
device-mapper dhcp dialog diffutils dmidecode dnf dnsmasq docker dosfstools dovecot dpdk dracut e2fsprogs ed edk2 efi
elfutils emacs ethtool exim expat fail2ban fakeroot file findutils fio flac flex fontconfig freeradius freetype
fribidi fuse gawk gcc gdb gdbm gdk-pixbuf gettext giflib git glib gmp gnupg gnutls go-md2man gobject golang gperf
gpgme gpm graphite grep groff grub gssproxy gtk gzip haproxy harfbuzz haveged hdparm hiredis hostname htop hunspell
hwloc icu ifupdown imagemagick inetutils initramfs iperf ipmitool iproute ipset iptables iputils irqbalance isl
iso-codes jansson jasper jbigkit jemalloc jq json-c kbd keepalived kexec keyutils kmod knot krb5 ksh lcms less libaio
libarchive libassuan libbpf libbsd libcap libdaemon libdrm libedit libev libevent libffi libgcrypt libidn libjpeg
libksba libmnl libnl libpcap libpng libpsl librsvg libseccomp libsecret libselinux libsodium libssh libtasn1 libtiff
libtirpc libtool libunistring libunwind liburcu libusb libuv libvirt libwebp libxcrypt libxml libxslt libyaml libzip
lldpd llvm lm-sensors logrotate logwatch lsof lsscsi lua lvm lxc lynx lz4 lzo m4 mailutils make man-db mariadb mdadm
memcached mesa microcode mlocate modemmanager monit mosh mpfr mtr multipath munin mutt nano nagios nasm ncurses
net-snmp netcat nettle network-manager newt nfs nftables nghttp nginx nmap nodejs npth nspr nss ntp numactl nvme
oddjob opendkim openipmi openldap openmpi opensc openssh openvpn orc os-prober ostree p11-kit p7zip pacemaker pam
pango parted patch pciutils pcre pcsc perl pesign php pinentry pixman pkcs11 plymouth podman policykit polkit popt
postfix postgresql powertop prometheus protobuf psmisc puppet python3 qemu quota rabbitmq radvd rdma readline redis
resolvconf rng-tools rpcbind rsync rsyslog ruby samba sane sasl screen sed selinux sg3 shadow shared-mime skopeo slang
smartmontools snappy socat sos speex sqlite squashfs squid strace strongswan subversion sudo swig syslinux sysstat
systemd systemtap sysvinit talloc tar tbb tcl tcpdump tdb tevent texinfo thin-provisioning time tmux tomcat traceroute
trousers tuned tzdata udisks unbound unixodbc unzip upower usbutils userspace-rcu util-linux valgrind varnish vim
vorbis wayland wget whois wireguard wireless xfsprogs xkeyboard xmlsec xxhash xz yajl yaml-cpp zabbix zeromq zip zlib
zsh zstd
"""
_MODULES = """
appdirs asn1crypto attrs babel bcrypt blinker boto3 botocore cachetools certifi cffi chardet click colorama configobj
cryptography cycler dateutil dbus decorator defusedxml distro dns docutils ecdsa file-magic flask future gi gpg
greenlet h11 html5lib httplib2 idna importlib ipaddress iso8601 itsdangerous jinja2 jmespath jsonpatch jsonpointer
jsonschema jwt kerberos kombu ldap lxml mako markdown markupsafe mock msgpack mysqldb netaddr netifaces networkx nose
numpy oauthlib olefile packaging paramiko passlib pexpect pika pil pip pkg-resources ply prettytable psutil psycopg2
ptyprocess pyasn1 pycparser pycurl pygments pymysql pynacl pyparsing pyrsistent pytest redis requests rfc3339 rich rpm
ruamel s3transfer scipy secretstorage serial setuptools simplejson six slip sqlalchemy systemd tabulate talloc tornado
tqdm twisted tz urllib3 venv virtualenv wcwidth webob websocket werkzeug wheel xattr yaml zipp zope
"""
_PERL = """
algorithm-diff authen-sasl b-hooks business-isbn capture-tiny class-load clone compress-raw convert-asn1 cpan-meta
crypt-openssl data-dump date-format date-manip dbd-mysql dbd-pg dbi devel-size digest-hmac digest-sha email-date
encode-locale error exporter-tiny file-basedir file-fcntllock file-find font-afm getopt-long html-parser html-tagset
http-date http-message http-tiny io-html io-socket-ssl io-stringy ipc-run ipc-system json json-pp json-xs libwww
list-moreutils locale-gettext log-log4perl lwp-mediatypes mail-sendmail math-bigint mime-lite module-build module-load
moo moose net-dbus net-dns net-http net-ssleay package-stash params-util parse-yapp path-tiny pod-parser regexp-common
role-tiny scalar-list socket6 sort-naturally spreadsheet storable sub-name switch sys-hostname term-readkey
test-simple text-charwidth text-csv text-iconv text-template text-wrap threads tie-ixhash time-date time-hires
timedate tk try-tiny unicode-map uri variable-magic www-robotrules x11-protocol xml-libxml xml-parser xml-sax
xml-simple xml-twig yaml
"""
_EXTENSIONS = (
    "apcu bcmath bz2 cli common curl dba fpm gd gmp intl json ldap mbstring mysql odbc opcache pgsql soap xml zip"
)
_ERLANG = (
    "asn1 base crypto diameter edoc eldap erts ftp inets kernel mnesia os-mon parsetools public-key ssh ssl stdlib"
)

# Debian's binary packages of a source, and Red Hat's. Which of them there are depends on the source.
_DEB_PARTS = ("{}", "lib{}{}", "{}-common", "lib{}-dev", "{}-utils", "{}-data", "lib{}-bin", "{}-doc", "lib{}-tools{}")
_RPM_PARTS = ("{}", "{}-libs", "{}-common", "{}-devel", "{}-utils", "{}-data", "{}-tools", "{}-doc", "{}-filesystem")

_OPENSSL = {
    "debian11": "1.1.1n-0+deb11u4 1.1.1n-0+deb11u5 1.1.1w-0+deb11u1 1.1.1w-0+deb11u2 1.1.1w-0+deb11u3",
    "debian12": "3.0.9-1 3.0.11-1~deb12u1 3.0.11-1~deb12u2 3.0.14-1~deb12u2 3.0.15-1~deb12u1",
    "debian13": "3.5.0-2 3.5.1-1 3.5.1-1+deb13u1 3.5.4-1~deb13u1 3.5.4-1~deb13u2",
    "rocky8": "1:1.1.1k-6.el8_5 1:1.1.1k-7.el8_6 1:1.1.1k-9.el8_7 1:1.1.1k-12.el8_9 1:1.1.1k-14.el8_10",
    "rocky9": "1:3.0.7-6.el9_2 1:3.0.7-18.el9_2 1:3.0.7-25.el9_3 1:3.0.7-27.el9 1:3.2.2-6.el9_5",
}
_OPENSSL_DAYS_AGO = (162.0, 95.0, 44.0, 10.5)  # everybody waits for these; the last one is rolling out
_KERNEL_DAYS_AGO = (150.0, 118.0, 84.0, 53.0, 24.0, 8.0)
_DAYS_BETWEEN_UPDATES = 1.3


@dataclass(frozen=True)
class Release:
    """A release of a distribution. ``os`` is what os-release says; ``share`` of the fleet."""

    name: str
    rpm: bool
    generation: int
    tag: str
    kernel: str
    share: float
    os: dict[str, str] = field(hash=False)


def _debian(version: str, codename: str, generation: int, kernel: str, share: float) -> Release:
    about = {"pretty_name": f"Debian GNU/Linux {version} ({codename})", "name": "Debian GNU/Linux"}
    about.update(version_id=version, version_codename=codename, id="debian")
    return Release(f"debian{version}", False, generation, f"deb{version}", kernel, share, about)


def _rocky(version: str, codename: str, generation: int, kernel: str, share: float) -> Release:
    about = {"name": "Rocky Linux", "id": "rocky", "id_like": "rhel centos fedora", "version_id": version}
    about["pretty_name"] = f"Rocky Linux {version} ({codename})"
    major = version.partition(".")[0]
    return Release(f"rocky{major}", True, generation, f"el{major}", kernel, share, about)


RELEASES = (
    _debian("11", "bullseye", 0, "5.10.0", 0.15),
    _debian("12", "bookworm", 1, "6.1.0", 0.40),
    _debian("13", "trixie", 2, "6.12.0", 0.10),
    _rocky("8.10", "Green Obsidian", 0, "4.18.0", 0.15),
    _rocky("9.5", "Blue Onyx", 1, "5.14.0", 0.20),
)


@dataclass(frozen=True)
class Source:
    """A source package, whose binary packages have one version."""

    name: str
    binaries: tuple[str, ...]

    def version(self, release: Release, level: int) -> str:
        """Its version in a release after so many updates."""
        if self.name == "openssl":
            return _OPENSSL[release.name].split()[level]
        rng = random.Random(f"{self.name} version")
        upstream, epoch = _upstream(rng, release.generation), rng.choice(("", "", "", "", "", "", "1:", "2:"))
        revision, micro = rng.randint(1, 9), rng.random() < 0.2
        if release.rpm:
            upstream = upstream.replace("+dfsg", "")
            minor = f"_{level}" if level else ""
            return f"{epoch}{upstream}-{revision * 4 + level}.{release.tag}{minor}"
        if micro and level:  # a new version from upstream, as Debian does for some
            return f"{epoch}{upstream}.{level}-1~{release.tag}u1"
        update = f"+{release.tag}u{level}" if level else rng.choice(("", "", "", "+b1", "+b3"))
        return f"{epoch}{upstream}-{revision}{update}"


def _upstream(rng: random.Random, generation: int) -> str:
    major, minor, patch = rng.randint(0, 9), rng.randint(0, 30), rng.randint(0, 20)
    minor += generation * rng.randint(0, 4)
    date = f"{2019 + 2 * generation}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    shapes = (f"{major}.{minor}.{patch}", f"{major}.{minor}", f"{major}.{minor}.{patch}+dfsg", date)
    return rng.choices((*shapes, f"{major}.{minor}~rc{patch % 4 + 1}"), (60, 20, 9, 6, 5))[0]


@dataclass(frozen=True)
class Update:
    """A source of a release is published anew."""

    at_s: float
    source: Source
    level: int


class Distribution:
    """One release: its packages, what is published when, and what is installed by default.

    ``until_s``: the end of the fleet's time, from which the days of updates are counted back.
    """

    def __init__(self, release: Release, seed: int, until_s: float, days: int) -> None:
        self.release = release
        self.sources = sources(release.rpm)
        self.updates = _updates(self, seed, until_s, days)
        self._kernels_s = [until_s - ago * DAY_S for ago in _KERNEL_DAYS_AGO]
        self._published_s = [update.at_s for update in self.updates]
        self._versions = lru_cache(maxsize=32)(self._versions_after)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every package there is, but kernels."""
        return tuple(sorted({name for source in self.sources for name in source.binaries}))

    def published(self, at_s: float) -> int:
        """How many of the updates were out by then."""
        return bisect_right(self._published_s, at_s)

    def versions(self, at_s: float) -> dict[str, str]:
        """What a node gets that updates itself at this time: name → version. Not to be changed."""
        return self._versions(self.published(at_s))

    def _versions_after(self, count: int) -> dict[str, str]:
        versions = {name: version for source, version in self._first for name in source.binaries}
        for update in self.updates[:count]:
            version = update.source.version(self.release, update.level)
            versions.update((name, version) for name in update.source.binaries)
        return versions

    @cached_property
    def _first(self) -> list[tuple[Source, str]]:
        return [(source, source.version(self.release, 0)) for source in self.sources]

    def kernel_level(self, at_s: float) -> int:
        """How many new kernels were out by then."""
        return bisect_right(self._kernels_s, at_s)

    def kernel(self, level: int) -> str:
        """What ``uname -r`` says of the kernel."""
        if self.release.rpm:
            return f"{self.release.kernel}-{503 + 10 * level}.{11 + level}.1.{self.release.tag}.x86_64"
        return f"{self.release.kernel}-{21 + level}-amd64"

    def kernel_packages(self, level: int) -> dict[str, str]:
        """The packages of this kernel and of the one before, which is kept: side by side, each its way."""
        levels = range(max(level - 1, 0), level + 1)
        if self.release.rpm:
            both = ", ".join(f"{self.kernel(one).rpartition('.')[0]}" for one in levels)
            return dict.fromkeys(("kernel", "kernel-core", "kernel-modules"), both)
        base = self.release.kernel.rpartition(".")[0]
        found = {f"linux-image-{self.kernel(one)}": f"{base}.{100 + 7 * one}-1" for one in levels}
        return {**found, "linux-image-amd64": f"{base}.{100 + 7 * level}-1"}


@lru_cache(maxsize=2)
def sources(rpm: bool) -> tuple[Source, ...]:
    """Every source package of a family of distributions; the same for every seed."""
    found = [_openssl(rpm)]
    found += [_source(project, _RPM_PARTS if rpm else _DEB_PARTS) for project in _PROJECTS.split()]
    found += [Source(f"python-{name}", (f"python3-{name}",)) for name in _MODULES.split()]
    found += [Source(f"perl-{name}", (_perl(name, rpm),)) for name in _PERL.split()]
    for project, words in (("php8.2", _EXTENSIONS), ("erlang", _ERLANG)):
        found.append(Source(f"{project}-all", tuple(f"{project}-{word}" for word in words.split())))
    if not rpm:
        found.append(Source("netkit-telnet", ("telnetd",)))
    return tuple(found)


def _openssl(rpm: bool) -> Source:
    return Source(
        "openssl", ("openssl", "openssl-libs", "openssl-devel") if rpm else ("openssl", "libssl3", "libssl-dev")
    )


def _perl(name: str, rpm: bool) -> str:
    return "perl-" + "-".join(word.title() for word in name.split("-")) if rpm else f"lib{name}-perl"


def _source(project: str, parts: Iterable[str]) -> Source:
    rng = random.Random(f"{project} parts")
    word = project[3:] if project.startswith("lib") and len(project) > 5 else project
    library = str(rng.randint(0, 12))
    there = [part for part in parts if part == "{}" or rng.random() < 0.66]
    return Source(project, tuple(part.format(project if part == "{}" else word, library) for part in there))


def _updates(distribution: Distribution, seed: int, until_s: float, days: int) -> list[Update]:
    rng = random.Random(f"{seed} {distribution.release.name} updates")
    openssl, others = distribution.sources[0], distribution.sources[1:]
    often = rng.sample(others, 40)  # what is attacked, or looked into
    when = [(until_s - ago * DAY_S, openssl) for ago in _OPENSSL_DAYS_AGO]
    at_s = until_s - (HISTORY_DAYS + days) * DAY_S
    while (at_s := at_s + rng.expovariate(1 / (_DAYS_BETWEEN_UPDATES * DAY_S))) < until_s:
        when.append((at_s, rng.choice(often if rng.random() < 0.7 else others)))
    levels: dict[str, int] = {}
    updates = []
    for published_s, source in sorted(when, key=lambda entry: entry[0]):
        levels[source.name] = levels.get(source.name, 0) + 1
        updates.append(Update(published_s, source, levels[source.name]))
    return updates
