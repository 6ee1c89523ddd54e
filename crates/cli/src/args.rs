//! The command line as people type it. Nothing here touches a file or a socket: parsing only.

mod call;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use warren_config::Multiaddr;
use warren_content::DocumentId;
use warren_identity::PeerId;

use crate::values::{self, SerialNumber};

pub(crate) use self::call::{CallArgs, ClusterArgs, ClusterCommand, PreflightArgs, VerifyArgs};

/// Where the configuration is looked for when `--config` is not given.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/warren/warren.yaml";

/// Stands under the help of `warren`, and so in its manual page.
const EXIT_CODES: &str = "Exit codes: 0 done; 1 it failed, or the answer is no (check, health, reload); 2 the command line was wrong.\nStandard output carries data only; messages go to standard error.";

/// Turns machines into a private network that shares verified documents.
#[derive(Debug, Parser)]
#[command(
    name = "warren",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Heading of the options that matter to commands which ask a running node.
const ASKING: &str = "Asking a node";

/// Options that every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Configuration file; give it again to merge several, later ones win
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "WARREN_CONFIG",
        value_delimiter = ','
    )]
    pub(crate) config: Vec<PathBuf>,
    /// Management API of the node to ask, such as http://127.0.0.1:8080, instead of the one the configuration names
    #[arg(long, global = true, value_name = "URL", value_parser = values::api_url, help_heading = ASKING)]
    pub(crate) api: Option<String>,
    /// File that holds the admin token, instead of the one the configuration names
    #[arg(long, global = true, value_name = "FILE", help_heading = ASKING)]
    pub(crate) token_file: Option<PathBuf>,
    /// Print machine-readable JSON; a failure is one JSON object on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a small network on this machine, share a folder through it and check every byte
    Dev(DevArgs),
    /// Run this node
    Start(StartArgs),
    /// Run this node as a director: it takes calls of members and passes them to workers
    Director(CallArgs),
    /// Run this node as a worker: it carries calls out
    Worker(CallArgs),
    /// Look after a cluster of directors and workers
    Cluster(ClusterArgs),
    /// Check this machine before it takes calls in production: ten points, exit code 1 if one fails
    Preflight(PreflightArgs),
    /// Check a running cluster after a deployment: eight points, exit code 1 if one fails
    Verify(VerifyArgs),
    /// Set up a first node: CA, key, certificate and a commented warren.yaml
    Init(InitArgs),
    /// Join an organisation with the one-time token in the file that --token-file names
    Join(JoinArgs),
    /// Check a configuration: every problem at once
    Check,
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run the organisation's certificate authority
    #[command(subcommand)]
    Ca(CaCommand),
    /// Look at a certificate, or renew the node's
    #[command(subcommand)]
    Cert(CertCommand),
    /// Make a node key, or a certificate request for one
    Keygen(KeygenArgs),
    /// Print the peer id of a key
    Peerid {
        /// Node key (PKCS#8 PEM)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// File whose first line opens the key, where it is encrypted
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Say how the running node is doing
    Status,
    /// List the peers the node is connected to
    Peers(PeersArgs),
    /// Connect the node to a peer now
    Connect {
        /// Address with the peer id, such as /ip4/10.0.1.5/tcp/4001/p2p/12D3KooW…
        #[arg(value_parser = values::peer_address)]
        multiaddr: Multiaddr,
    },
    /// Say what kind of NAT the node is behind
    NatCheck,
    /// Show the node's DHT routing table
    Dht,
    /// Put a file, a folder or standard input into the node
    Put(PutArgs),
    /// Get a document, from this node or from whichever peer has it
    Get(GetArgs),
    /// List the documents this node holds; those of other nodes are not listed
    Ls(LsArgs),
    /// Show a document's record
    Stat {
        /// Document id
        id: DocumentId,
    },
    /// Remove a document from this node
    Rm {
        /// Document id
        id: DocumentId,
    },
    /// Look after the node's store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Have the node read its configuration again
    Reload,
    /// Ask the node whether it is healthy; exit code 1 when it is not
    Health(HealthArgs),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of every command
    Man {
        /// Folder to write them to, such as /usr/local/share/man/man1
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Exit after the table; the exit code is 1 if anything differed
    #[arg(long)]
    pub(crate) once: bool,
    /// How many nodes to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    pub(crate) nodes: u8,
    /// Folder to share; the project's own docs/ when left out
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep keys, certificates and stores in DIR instead of a temporary folder
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Print what would be started, and exit
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Organisation id, such as org_acme_corp
    #[arg(long)]
    pub(crate) org: String,
    /// Folder to write to
    #[arg(long, value_name = "DIR", default_value = "/etc/warren")]
    pub(crate) dir: PathBuf,
    /// Name of this node; the machine's when left out
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where the node keeps its documents
    #[arg(long, value_name = "DIR", default_value = "/var/lib/warren")]
    pub(crate) storage: PathBuf,
    /// Encrypt the keys of node and CA with the first line of this file, which the node reads at each start
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// Discovery server, such as `https://discovery.acme.com:8081`
    #[arg(value_parser = values::server_url)]
    pub(crate) url: reqwest::Url,
    /// Folder to write the key, the certificates and warren.yaml to
    #[arg(long, value_name = "DIR", default_value = "/etc/warren")]
    pub(crate) dir: PathBuf,
    /// Where the node keeps its documents
    #[arg(long, value_name = "DIR", default_value = "/var/lib/warren")]
    pub(crate) storage: PathBuf,
    /// Encrypt the key with the first line of this file, which the node reads at each start
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print each effective value and where it came from
    Show,
    /// Print the JSON Schema of the configuration
    Schema,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make a certificate authority; refuses to overwrite one
    Init {
        /// Organisation id, such as org_acme_corp
        #[arg(long)]
        org: String,
        /// Folder to write ca_cert.pem and ca_key.pem to
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How long the CA certificate is valid
        #[arg(long, default_value_t = 3650)]
        days: u32,
        /// Folder of the CA that this one follows: whoever is revoked there stays revoked
        #[arg(long, value_name = "DIR")]
        after: Option<PathBuf>,
        /// Encrypt the key with the first line of this file
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Issue a node certificate
    Issue(IssueArgs),
    /// Revoke a peer for good, or one certificate; peers drop it
    Revoke(RevokeArgs),
    /// Sign a fresh revocation list before the present one is stale
    Crl(AuthorityArgs),
    /// Make a one-time token with which a new machine joins; needs a running node with the issuer role
    Token(TokenArgs),
    /// List what the CA has issued
    List {
        /// Folder of the CA
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// A CA that signs.
#[derive(Debug, Args)]
pub(crate) struct AuthorityArgs {
    /// Folder of the CA
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Organisation, where the CA certificate does not name it
    #[arg(long)]
    pub(crate) org: Option<String>,
    /// File whose first line opens the CA's key, where it is encrypted
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("revoked").required(true).args(["peer", "serial"]))]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) authority: AuthorityArgs,
    /// Peer to revoke, with every certificate it has or gets; the machine comes back with a new key only
    #[arg(long, value_name = "PEER_ID", value_parser = values::peer_id)]
    pub(crate) peer: Option<PeerId>,
    /// Serial of the one certificate to revoke, as `warren ca list` and `openssl x509 -serial` show it; its node stays
    /// a member with any other
    #[arg(long, value_name = "HEX", value_parser = values::serial)]
    pub(crate) serial: Option<SerialNumber>,
    /// Revoke what this CA's ledger does not know (of a lost ledger, or made by `openssl`), or this machine's own node
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("subject").required(true).args(["key", "csr", "peer"]))]
pub(crate) struct IssueArgs {
    #[command(flatten)]
    pub(crate) authority: AuthorityArgs,
    /// Node key to certify
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// File whose first line opens the node key, where it is encrypted
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) key_passphrase_file: Option<PathBuf>,
    /// Certificate request to sign: the CA never sees the key
    #[arg(long, value_name = "FILE")]
    pub(crate) csr: Option<PathBuf>,
    /// Peer id to certify: it holds the public key. The certificate has no P-256 companion then, for a peer id does not
    /// tell the companion's key
    #[arg(long, value_name = "PEER_ID", value_parser = values::peer_id)]
    pub(crate) peer: Option<PeerId>,
    /// Name of the node
    #[arg(long)]
    pub(crate) name: String,
    /// DNS name the node serves; may be given again
    #[arg(long, value_name = "NAME")]
    pub(crate) dns: Vec<String>,
    /// IP address the node serves; may be given again
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Vec<std::net::IpAddr>,
    /// How long the certificate is valid
    #[arg(long, default_value_t = 365)]
    pub(crate) days: u32,
    /// Capability to grant; may be given again: storage, search, federation, discovery, coordinator, director, worker,
    /// hub, edge, relay, exit, gateway, admin, acl:write, route:PREFIX
    #[arg(long, value_name = "NAME", value_parser = values::capability)]
    pub(crate) capability: Vec<String>,
    /// Allow names such as *.acme.com, whose holder can pose as every host of that domain
    #[arg(long)]
    pub(crate) allow_wildcard: bool,
    /// File to write the certificate to
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Name of the new node
    #[arg(long)]
    pub(crate) name: String,
    /// Capability to grant; may be given again: storage, search, federation, discovery, coordinator, director, worker,
    /// hub, edge, relay, exit, gateway, admin, acl:write, route:PREFIX
    #[arg(long, value_name = "NAME", default_value = "storage", value_parser = values::capability)]
    pub(crate) capability: Vec<String>,
    /// DNS name the node will serve; may be given again
    #[arg(long, value_name = "NAME")]
    pub(crate) dns: Vec<String>,
    /// IP address the node will serve; may be given again
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Vec<std::net::IpAddr>,
    /// How long the certificate will be valid
    #[arg(long, default_value_t = 365)]
    pub(crate) days: u32,
    /// How long the token can be used
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = values::seconds)]
    pub(crate) expires: u64,
    /// File to write the token to (0600); standard output when left out
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Show what a certificate says
    Show {
        /// Certificate (PEM)
        file: PathBuf,
    },
    /// Have the running node renew its certificate now, and not only near its end
    Renew,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// File to write the key to, mode 0600
    #[arg(long, value_name = "FILE", required_unless_present = "key")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the files if they are there
    #[arg(long)]
    pub(crate) force: bool,
    /// Also write a certificate request for the key to this file (of an existing key, with --key)
    #[arg(long, value_name = "FILE")]
    pub(crate) csr: Option<PathBuf>,
    /// Existing key to make the request for
    #[arg(long, value_name = "FILE", requires = "csr", conflicts_with = "output")]
    pub(crate) key: Option<PathBuf>,
    /// Encrypt the new key with the first line of this file, or open the existing one with it
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Name to put into the request
    #[arg(long, default_value = "node")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    /// Only peers of this region
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Only peers with this status
    #[arg(long, value_enum)]
    pub(crate) status: Option<PeerStatus>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PeerStatus {
    /// Connected
    Online,
    /// Known, not connected
    Offline,
    /// Known, not connected, and the last attempt to reach it failed
    Unreachable,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// File or folder; - reads standard input
    #[arg(value_name = "FILE|DIR|-")]
    pub(crate) source: PathBuf,
    /// Title; the file's name when left out
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// Tag; may be given again
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Where the document comes from, such as wiki
    #[arg(long, value_name = "TYPE")]
    pub(crate) source_type: Option<String>,
    /// How long this node keeps it, such as 30d, or 0 until it is removed, as when it is left out
    #[arg(long, value_name = "DURATION", value_parser = values::seconds)]
    pub(crate) retention: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Document id
    pub(crate) id: DocumentId,
    /// File or folder to write to; standard output when left out
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only documents with this tag
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Stop after this many
    #[arg(long)]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read every block again, check it, and repair what is damaged from peers
    Verify,
    /// Give back the space of what is no longer referenced
    Gc,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Which question to ask
    #[arg(long, value_enum, default_value_t = Endpoint::Health)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Endpoint {
    /// Is the process well?
    Health,
    /// Can it serve?
    Ready,
}
