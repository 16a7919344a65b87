//! Shell: the lab's keys on disk: made once by `init`, read at each start.
//!
//! ```text
//! keys/lab-id                  random name of the lab, hex
//! keys/root.key  root.pub      pinned in every node's initramfs; signs keys.toml
//! keys/signing.key .pub        signs the catalog at each publication
//! keys/keys.toml .minisig      which signing keys count
//! ```
//! `root.key` is read only when `keys.toml` has to be made, so it may live on a stick.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bt_catalog::version::{Program, VersionError};
use bt_catalog::{CatalogError, KeyList, LabId, PublicKey, SecretKey, Signed, Trust, ValidKey};
use jiff::Timestamp;
use rand::TryRngCore;

use crate::lab::Lab;
use crate::lab::files::{Finding, write_durably};

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file is missing or cannot be read.
    #[error("the lab's key file {} cannot be read; `bt-server init` creates what is missing", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("the lab's key file {} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read a secret.
    #[error("{} can be read by others (mode {mode:03o}); chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{} is not usable: {cause}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The list of keys is of a newer server; it stays as it is.
    #[error("{}: {error}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Which program to update.
        error: VersionError,
    },
    /// The list of keys must be made anew, and the root key is not here.
    #[error(
        "keys/keys.toml does not match the lab's keys ({cause}), and only keys/root.key can sign a new \
         one: put that file back for one start"
    )]
    RootKeyNeeded {
        /// Why the list does not fit.
        cause: CatalogError,
    },
    /// The system gave no random numbers.
    #[error("cannot create a key: {0}")]
    Make(String),
}

/// The keys of a running server.
#[derive(Debug)]
pub struct Keyring {
    /// The lab's random name.
    pub lab_id: LabId,
    /// What nodes have pinned.
    pub root: PublicKey,
    signing: SecretKey,
    /// `keys.toml`, exact bytes.
    pub key_list: String,
    /// Its minisign signature.
    pub key_list_signature: String,
}

impl Keyring {
    /// Makes what is missing of a lab's keys; what exists stays. True when a root key was made.
    ///
    /// # Errors
    /// Where the system gives no random numbers or a file cannot be written.
    pub fn create(lab: &Lab) -> Result<bool, KeyringError> {
        let folder = lab.keys();
        let id_file = folder.join("lab-id");
        if !id_file.exists() {
            let mut id = [0; 16];
            rand::rngs::OsRng
                .try_fill_bytes(&mut id)
                .map_err(|error| KeyringError::Make(error.to_string()))?;
            write(&id_file, &format!("{}\n", LabId(id)), 0o644)?;
        }
        create_pair(&folder, "signing", "signing key of a BootTorrent lab")?;
        create_pair(&folder, "root", "root key of a BootTorrent lab")
    }

    /// Reads the keys, and signs the list of keys where it is missing or does not fit.
    ///
    /// # Errors
    /// Where a key is missing, exposed or broken, in words.
    pub fn load(lab: &Lab, now: Timestamp) -> Result<Self, KeyringError> {
        let folder = lab.keys();
        let id_file = folder.join("lab-id");
        let lab_id: LabId =
            read(&id_file)?.parse().map_err(|cause| KeyringError::Bad { path: id_file, cause })?;
        let root_file = folder.join("root.pub");
        let root = PublicKey::parse(&read(&root_file)?).map_err(bad(&root_file))?;
        let signing = read_secret(&folder.join("signing.key"))?;
        let mut keyring = Self {
            lab_id,
            root,
            signing,
            key_list: fs::read_to_string(folder.join("keys.toml")).unwrap_or_default(),
            key_list_signature: fs::read_to_string(folder.join("keys.toml.minisig"))
                .unwrap_or_default(),
        };
        match keyring.check_key_list(now) {
            Ok(()) => {}
            // Not ours to replace: it may say what this server does not understand.
            Err(CatalogError::Version(error)) => {
                let path = folder.join("keys.toml");
                return Err(KeyringError::Version { path, error: error.read_by(Program::Server) });
            }
            Err(cause) => keyring.sign_key_list(&folder, cause, now)?,
        }
        Ok(keyring)
    }

    /// The key that the published catalog is checked with by hand.
    pub fn signing_public(&self) -> PublicKey {
        self.signing.public()
    }

    /// Signs a catalog's exact bytes.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn sign(&self, bytes: &[u8], comment: &str) -> Result<String, CatalogError> {
        self.signing.sign(bytes, comment)
    }

    /// Judges a catalog exactly as the lab's nodes will.
    ///
    /// # Errors
    /// What a node would say.
    pub fn check_as_node(
        &self,
        catalog: &str,
        signature: &str,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let trust = Trust { root: self.root.clone(), lab_id: Some(self.lab_id), version_floor: 0 };
        let keys = Signed { bytes: self.key_list.as_bytes(), signature: &self.key_list_signature };
        trust.open(keys, Signed { bytes: catalog.as_bytes(), signature }, Some(now)).map(drop)
    }

    /// Whether nodes would accept a catalog that this key signs under this list.
    fn check_key_list(&self, now: Timestamp) -> Result<(), CatalogError> {
        let empty = bt_catalog::Catalog {
            lab_id: self.lab_id,
            lab_name: "check".to_owned(),
            version: 0,
            issued: now,
            expires: now,
            default: None,
            timeout_secs: 0,
            systems: Vec::new(),
            too_new: Vec::new(),
        }
        .to_toml();
        let signature = self.sign(empty.as_bytes(), "check")?;
        self.check_as_node(&empty, &signature, now)
    }

    fn sign_key_list(
        &mut self,
        folder: &Path,
        cause: CatalogError,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        let root_file = folder.join("root.key");
        if !root_file.exists() {
            return Err(KeyringError::RootKeyNeeded { cause });
        }
        let root = read_secret(&root_file)?;
        if root.public() != self.root {
            let cause = "it does not belong to keys/root.pub, which the PCs trust".to_owned();
            return Err(KeyringError::Bad { path: root_file, cause });
        }
        let version = KeyList::parse(self.key_list.as_bytes()).map_or(1, |old| old.version + 1);
        let key = ValidKey { key: self.signing.public(), name: "server".to_owned() };
        let list = KeyList { lab_id: self.lab_id, version, issued: now, keys: vec![key] };
        self.key_list = list.to_toml();
        self.key_list_signature = root
            .sign(self.key_list.as_bytes(), &format!("keys version {version}"))
            .map_err(bad(&root_file))?;
        write(&folder.join("keys.toml"), &self.key_list, 0o644)?;
        write(&folder.join("keys.toml.minisig"), &self.key_list_signature, 0o644)
    }
}

/// What is wrong with the keys' files, as `check` tells it.
pub fn findings(lab: &Lab, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Err(error) = Keyring::load(lab, now) {
        found.push(Finding::blocking("keys/".to_owned(), crate::humanize::chain(&error)));
    }
    let root = lab.keys().join("root.key");
    if let Err(error @ KeyringError::Exposed { .. }) = check_mode(&root) {
        found.push(Finding::blocking("keys/".to_owned(), error.to_string()));
    }
    found
}

fn create_pair(folder: &Path, name: &str, comment: &str) -> Result<bool, KeyringError> {
    let secret_file = folder.join(format!("{name}.key"));
    let public_file = folder.join(format!("{name}.pub"));
    // A public key alone means that the secret half is kept elsewhere on purpose.
    if public_file.exists() || secret_file.exists() {
        return Ok(false);
    }
    let make = |error: CatalogError| KeyringError::Make(error.to_string());
    let key = SecretKey::generate().map_err(make)?;
    write(&secret_file, &key.to_file(comment).map_err(make)?, 0o600)?;
    write(&public_file, &key.public().to_file(comment), 0o644)?;
    Ok(true)
}

fn read_secret(path: &Path) -> Result<SecretKey, KeyringError> {
    check_mode(path)?;
    SecretKey::parse(&read(path)?).map_err(bad(path))
}

fn check_mode(path: &Path) -> Result<(), KeyringError> {
    let metadata = fs::metadata(path)
        .map_err(|source| KeyringError::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, KeyringError> {
    fs::read_to_string(path).map_err(|source| KeyringError::Read { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), KeyringError> {
    write_durably(path, text.as_bytes(), mode)
        .map_err(|source| KeyringError::Write { path: path.to_owned(), source })
}

fn bad(path: &Path) -> impl FnOnce(CatalogError) -> KeyringError {
    let path = path.to_owned();
    move |error| KeyringError::Bad { path, cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_795_000_000).expect("a time")
    }

    fn lab() -> (tempfile::TempDir, Lab) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("keys")).expect("made");
        fs::write(folder.path().join("server.toml"), "").expect("written");
        let lab = Lab::open(folder.path()).expect("a lab");
        Keyring::create(&lab).expect("keys");
        (folder, lab)
    }

    #[test]
    fn keys_are_made_once_and_then_kept() {
        let (_folder, lab) = lab();
        let first = Keyring::load(&lab, now()).expect("loads");
        assert!(!Keyring::create(&lab).expect("nothing to do"));
        let second = Keyring::load(&lab, now()).expect("loads");
        assert_eq!(first.lab_id, second.lab_id);
        assert_eq!(first.root, second.root);
        assert_eq!(first.key_list, second.key_list);
    }

    #[test]
    fn the_root_key_is_needed_only_for_a_new_list() {
        let (_folder, lab) = lab();
        Keyring::load(&lab, now()).expect("makes the list");
        fs::remove_file(lab.keys().join("root.key")).expect("moved to a stick");
        Keyring::load(&lab, now()).expect("the list is there");
        fs::remove_file(lab.keys().join("keys.toml")).expect("lost");
        let error = Keyring::load(&lab, now()).expect_err("cannot sign a list");
        assert!(matches!(error, KeyringError::RootKeyNeeded { .. }), "{error}");
    }

    #[test]
    fn an_exposed_key_is_refused_with_the_cure() {
        let (_folder, lab) = lab();
        for name in ["signing.key", "root.key"] {
            let file = lab.keys().join(name);
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("changed");
            let found = findings(&lab, now());
            assert!(found[0].what.contains("chmod 600"), "{found:?}");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
        }
        assert!(findings(&lab, now()).is_empty());
    }

    #[test]
    fn a_missing_key_says_what_makes_it() {
        let (_folder, lab) = lab();
        fs::remove_file(lab.keys().join("signing.key")).expect("lost");
        let error = Keyring::load(&lab, now()).expect_err("missing").to_string();
        assert!(error.contains("signing.key") && error.contains("bt-server init"), "{error}");
    }

    #[test]
    fn a_list_of_a_newer_server_is_refused_and_left_as_it_is() {
        let (_folder, lab) = lab();
        Keyring::load(&lab, now()).expect("loaded");
        let root =
            SecretKey::parse(&fs::read_to_string(lab.keys().join("root.key")).expect("there"));
        let list = fs::read_to_string(lab.keys().join("keys.toml")).expect("there");
        let newer = list.replace("bt-keys-v1", "bt-keys-v2");
        let signature = root.expect("a key").sign(newer.as_bytes(), "newer").expect("signed");
        fs::write(lab.keys().join("keys.toml"), &newer).expect("written");
        fs::write(lab.keys().join("keys.toml.minisig"), signature).expect("written");
        let error = Keyring::load(&lab, now()).expect_err("too new").to_string();
        assert!(error.contains("update bt-server"), "{error}");
        assert_eq!(fs::read_to_string(lab.keys().join("keys.toml")).expect("there"), newer);
    }
}
