"""Stand-ins for `hsi` and `htar`, NERSC's two commands for its tape system HPSS.

`install(box)` puts the executables into DIR/nersc/bin, which is first on the PATH of the sandbox's jobs. What they
store lies as plain files below DIR/nersc/hpss (the HPSS path `/home/a/als/x` is DIR/nersc/hpss/home/a/als/x): a test
may look at them, and break them. Tape, position and checksum of each file are documents in the box.

Known from documents (HSI and HTAR manuals, NERSC's archive page, outputs quoted in public programs that call them):
- htar: `htar -{c|t|x|K|X} -f archive`, flags in one word as with tar; `-c` overwrites without a word; `-L file|-` holds
  one path per line; `-Hcrc` stores checksums in the index; `-Hverify=info|crc|compare|all|0|1|2` (comma-separated,
  `no…` leaves one out) checks headers, checksums where they were stored, and local files; `-K` verifies later; `-X`
  makes the index anew; `-P` makes HPSS directories; `-h` follows links; the index is written only when all went well;
  the last member is htar's own HTAR_CF_CHK file; members of 8^12 bytes and more fail at once; names over 99 + 154 bytes
  are left out, with a warning, "HTAR: HTAR SUCCESSFUL" and exit 70; asking for a member that is not there is no error;
  the lines of `-t`, `-c`, `-x`, `-K`, `-X`.
- hsi: one-line commands and `in FILE`; `local : hpss` with blanks around the colon, and a single path means the HPSS
  one; listings on stderr, with `-P` everything on stdout; exit codes as in sysexits.h, 64 where not otherwise noted,
  HPSS_ENOENT among them; names are printable ASCII and `* ? [ ]` expand; `cput` stores when the HPSS file is missing
  *or older*; `ls -P`: tab-separated FILE, path, size, size there, position `section+offset`, tape, …, two dates;
  hashcreate `digest (md5) path`, hashlist `digest md5 path [hsi]`, hashverify `path: (md5) OK`; during maintenance the
  commands wait ("sleepers") rather than fail; about 15 sessions per user.

Assumed (where a guess was needed, the one that a careful caller finds harder):
- htar's exit code for everything that goes wrong, HPSS being down included, is 70, except 64 for wrong usage and 72
  for a local file or an HPSS directory that is not there; a line of `-L` is stripped of blanks, and is an option if it
  begins with a dash; the index's format (here: JSON lines).
- hsi goes on after a failed command and exits with the first failure's code; quoting is a shell's; a failed hashverify
  says FAILED and exits 70; quota is HPSS_EDQUOT and 74; a 16th session is 75; `ls -D` writes whole dates; a file's
  words after the HPSS_ENOENT line are its path.
- A command that is killed leaves what it had written so far, without index and checksum.

Faults (service "hpss"): see tape.py.
"""

from sandbox.hpss.install import install
from sandbox.hpss.tape import configure, hpss_path, settings

__all__ = ["configure", "hpss_path", "install", "settings"]
