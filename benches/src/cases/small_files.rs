//! Ten thousand files of 4 KiB put on one node and read from another, against rsync over ssh.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::program::{Service, find, text, timed};
use super::{Bench, Sample, Telling};
use crate::child::{Report, Running};
use crate::material;
use crate::outcome::{Row, Target};
use crate::place::Place;
use crate::roles;

/// The one that both speak.
const CIPHER: &str = "aes256-gcm@openssh.com";

/// Ours: the folder put, durable; then on the other node fetched, durable, and every file read. Rsync: the folder copied
/// to the other node, every file synced.
pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let ssh = Ssh::find()?;
    let folder = bench.folder()?;
    let count: u32 = if bench.quick { 2_000 } else { 10_000 };
    let source = folder.path().join("source");
    let digest = material::small_files(&source, count as usize)?;
    roles::warren::write_pki(folder.path())?;
    ssh.write_keys(folder.path())?;
    let files = f64::from(count);
    let mut steps = Vec::new();
    let mut ours = || {
        let (put_s, get_s, cpu_s) = put_and_get(&bench.place, folder.path(), &source, &digest)?;
        steps.push((put_s, get_s));
        Ok(Sample {
            value: files / (put_s + get_s),
            cpu: cpu_s * 1e3 / files,
        })
    };
    let mut rsync = || {
        let (wall_s, cpu_s) = ssh.copy(&bench.place, folder.path(), &source, &digest)?;
        Ok(Sample {
            value: files / wall_s,
            cpu: cpu_s * 1e3 / files,
        })
    };
    let samples = bench.alternate(&mut [&mut ours, &mut rsync])?;
    let telling = Telling {
        case: "small-files",
        peer: "rsync --fsync over ssh",
        unit: "files/s",
        cpu_unit: "CPU ms/file, both ends",
        target: Target::at_least(2.0, 3.0),
    };
    let mut rows = telling.rows(&samples[0], &samples[1]);
    let (puts, gets): (Vec<f64>, Vec<f64>) = steps.into_iter().unzip();
    rows.push(Row::alone("small-files (put)", "s", &puts, Target::NONE));
    rows.push(Row::alone("small-files (get)", "s", &gets, Target::NONE));
    Ok(rows)
}

fn put_and_get(
    place: &Place,
    folder: &Path,
    source: &Path,
    digest: &str,
) -> anyhow::Result<(f64, f64, f64)> {
    let (pki, store, other) = (text(folder)?, folder.join("store"), folder.join("other"));
    for left in [&store, &other] {
        if left.exists() {
            fs::remove_dir_all(left)?;
        }
    }
    let put = Running::complete(
        &place.here,
        &["warren-put-folder", text(&store)?, text(source)?],
    )?;
    let here = place.here.address.to_string();
    let mut server = Running::start(&place.here, &["warren-serve", pki, text(&store)?, &here])?;
    let from = server.ready()?.address;
    let get = [
        "warren-get",
        pki,
        text(&other)?,
        &from,
        &put.result,
        "folder",
    ];
    let read = Running::complete(&place.there, &get)?;
    let served = server.finish::<Report>()?;
    read.verify(put.bytes, digest)?;
    Ok((
        put.wall_s,
        read.wall_s,
        put.cpu_s + served.cpu_s + read.cpu_s,
    ))
}

/// The stock programs.
struct Ssh {
    rsync: PathBuf,
    ssh: PathBuf,
    sshd: PathBuf,
    keygen: PathBuf,
}

impl Ssh {
    fn find() -> anyhow::Result<Self> {
        Ok(Self {
            rsync: find("rsync", "rsync")?,
            ssh: find("ssh", "openssh-client")?,
            sshd: find("sshd", "openssh-server")?,
            keygen: find("ssh-keygen", "openssh-client")?,
        })
    }

    fn write_keys(&self, folder: &Path) -> anyhow::Result<()> {
        for name in ["host_key", "user_key"] {
            let mut command = Command::new(&self.keygen);
            command
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(name));
            let status = command.status()?;
            ensure!(status.success(), "ssh-keygen ended with {status}");
        }
        fs::copy(folder.join("user_key.pub"), folder.join("authorized_keys"))?;
        fs::set_permissions(
            folder.join("authorized_keys"),
            Permissions::from_mode(0o600),
        )?;
        // The server wants this folder and makes it nowhere itself; without root it does not.
        let _ = fs::create_dir_all("/run/sshd");
        Ok(())
    }

    /// Time and CPU of one copy, its result checked.
    fn copy(
        &self,
        place: &Place,
        folder: &Path,
        source: &Path,
        digest: &str,
    ) -> anyhow::Result<(f64, f64)> {
        let port = TcpListener::bind((place.there.address, 0))
            .or_else(|_| TcpListener::bind("127.0.0.1:0"))?
            .local_addr()?
            .port();
        let mut server = self.serve(place, folder, port)?;
        let address = place.there.address;
        server.until(Duration::from_secs(10), || {
            std::fs::read_to_string(folder.join("sshd.log"))
                .is_ok_and(|log| log.contains("Server listening"))
        })?;
        let target = folder.join("copied");
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        let shell = format!(
            "{} -F /dev/null -i {} -p {port} -c {CIPHER} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes",
            text(&self.ssh)?,
            text(&folder.join("user_key"))?,
        );
        let mut command = Command::new(&self.rsync);
        command
            .args(["-a", "--fsync", "-e", &shell])
            .arg(format!("{}/", text(source)?))
            .arg(format!("{address}:{}/", text(&target)?));
        let (wall_s, copied) = timed(&place.here, command)?;
        let served = server.stop()?;
        ensure!(
            material::folder_digest(&target)? == digest,
            "rsync copied something else"
        );
        Ok((wall_s, copied.cpu_s + served.cpu_s))
    }

    fn serve(&self, place: &Place, folder: &Path, port: u16) -> anyhow::Result<Service> {
        let config = folder.join("sshd_config");
        let lines = [
            format!("ListenAddress {}:{port}", place.there.address),
            format!("HostKey {}", text(&folder.join("host_key"))?),
            format!("AuthorizedKeysFile {}", text(&folder.join("authorized_keys"))?),
            format!("Ciphers {CIPHER}"),
            "PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n".to_owned(),
        ];
        fs::write(&config, lines.join("\n"))?;
        let mut command = Command::new(&self.sshd);
        command.args(["-D", "-e", "-f"]).arg(&config);
        Service::start(&place.there, command, &folder.join("sshd.log"))
    }
}
