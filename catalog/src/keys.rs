//! Core: root key, signing keys; sign and verify in minisign's format.
//!
//! The root key is pinned in every node's initramfs and signs a [`KeyList`]; a signing key of that
//! list signs the catalog each time it is published. So a stolen signing key is replaced by a new
//! list, without a visit to a node. Signatures are minisign's prehashed kind (BLAKE2b-512, then
//! Ed25519), which the stock tool checks: `minisign -V -p lab.pub -m catalog.toml`.

use jiff::Timestamp;
use minisign_verify::{Error as VerifyError, PublicKey as MinisignKey, Signature};
use serde::{Deserialize, Serialize};

use crate::catalog::MAX_BYTES;
use crate::version::{self, Program, Readable};
use crate::{Catalog, CatalogError, LabId};

/// A public key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: MinisignKey,
    base64: String,
}

impl PublicKey {
    /// Reads a minisign public key: the two-line file, or only its base64 line.
    ///
    /// # Errors
    /// [`CatalogError::BadKey`] where it is neither.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        let base64 = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("").trim().to_owned();
        let key = MinisignKey::from_base64(&base64).map_err(|e| CatalogError::BadKey {
            cause: format!("not a minisign public key: {e}"),
        })?;
        Ok(Self { key, base64 })
    }

    /// The key as minisign's one line of base64.
    pub fn to_base64(&self) -> &str {
        &self.base64
    }

    /// The key as minisign's public key file.
    pub fn to_file(&self, comment: &str) -> String {
        format!("untrusted comment: {comment}\n{}\n", self.base64)
    }

    fn verify(&self, document: &'static str, signed: &Signed<'_>) -> Result<(), CatalogError> {
        let signature = Signature::decode(signed.signature)
            .map_err(|e| CatalogError::UnreadableSignature { document, cause: e.to_string() })?;
        // Legacy (not prehashed) signatures are never made by this lab, so none is accepted.
        self.key.verify(signed.bytes, &signature, false).map_err(|e| match e {
            VerifyError::UnexpectedKeyId => CatalogError::UntrustedKey { document },
            _ => CatalogError::Altered { document },
        })
    }
}

/// A document and its minisign signature file, as they came from the network.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The document's exact bytes.
    pub bytes: &'a [u8],
    /// The text of its `.minisig` file.
    pub signature: &'a str,
}

/// One signing key of a [`KeyList`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidKey {
    /// The key.
    pub key: PublicKey,
    /// What the supervisor calls it.
    pub name: String,
}

/// Which signing keys count: `keys.toml`, signed by the root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyList {
    /// The lab it belongs to.
    pub lab_id: LabId,
    /// Grows with every change of keys.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// One to eight keys.
    pub keys: Vec<ValidKey>,
}

/// What every version of the list has.
#[derive(Deserialize)]
struct Head {
    format: String,
}

#[derive(Serialize, Deserialize)]
struct RawKeyList {
    format: String,
    lab_id: String,
    version: u64,
    issued: String,
    #[serde(rename = "key")]
    keys: Vec<RawKey>,
}

#[derive(Serialize, Deserialize)]
struct RawKey {
    name: String,
    minisign: String,
}

const NAME: &str = "bt-keys";
/// The lowest version that reads what [`KeyList::to_toml`] writes; see [`version`].
const FORMAT: u32 = 1;
const READABLE: Readable =
    Readable { oldest: 1, newest: 1, reader: Program::BootFiles, writer: Program::Server };
const KEYS: &str = "keys.toml";
const CATALOG: &str = "catalog.toml";
/// The most keys in one list: each costs a node one signature check per catalog.
const MAX_KEYS: usize = 8;

impl KeyList {
    /// The bytes to sign and publish.
    pub fn to_toml(&self) -> String {
        let key = |k: &ValidKey| RawKey { name: k.name.clone(), minisign: k.key.base64.clone() };
        let raw = RawKeyList {
            format: format!("{NAME}-v{FORMAT}"),
            lab_id: self.lab_id.to_string(),
            version: self.version,
            issued: self.issued.to_string(),
            keys: self.keys.iter().map(key).collect(),
        };
        let text = toml::to_string(&raw).expect("plain strings and numbers always serialise");
        format!("# The keys that may sign this lab's catalog. Signed by the root key.\n{text}")
    }

    /// Reads a list whose signature has been verified already.
    ///
    /// # Errors
    /// [`CatalogError::Invalid`] with the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, CatalogError> {
        let invalid = |cause| CatalogError::Invalid { document: KEYS, cause };
        let head: Head = read_list(bytes).map_err(invalid)?;
        let format = version::of_word(&head.format, NAME).ok_or_else(|| {
            invalid(format!("its format is `{}`; expected `{NAME}-v{FORMAT}`", head.format))
        })?;
        READABLE.check("the keys list", format)?;
        check_list(read_list(bytes).map_err(invalid)?).map_err(invalid)
    }
}

fn read_list<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("it has {} bytes; the maximum is {MAX_BYTES}", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("it is not UTF-8: {e}"))?;
    toml::from_str(text).map_err(|e| e.message().to_owned())
}

fn check_list(raw: RawKeyList) -> Result<KeyList, String> {
    if raw.keys.is_empty() || raw.keys.len() > MAX_KEYS {
        return Err(format!("it has {} keys; 1 to {MAX_KEYS} are allowed", raw.keys.len()));
    }
    let key = |k: RawKey| {
        let key = PublicKey::parse(&k.minisign).map_err(|e| e.to_string())?;
        Ok::<_, String>(ValidKey { key, name: k.name })
    };
    Ok(KeyList {
        lab_id: raw.lab_id.parse()?,
        version: raw.version,
        issued: raw
            .issued
            .parse()
            .map_err(|e| format!("`{}` is not a timestamp: {e}", raw.issued))?,
        keys: raw.keys.into_iter().map(key).collect::<Result<_, _>>()?,
    })
}

/// What a node was built to believe.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The lab's root key.
    pub root: PublicKey,
    /// The lab; `None` accepts any lab that the root key signs for.
    pub lab_id: Option<LabId>,
    /// The lowest catalog version accepted.
    pub version_floor: u64,
}

impl Trust {
    /// From bytes of the network to a catalog that may be shown: verifies both signatures first,
    /// parses after, then checks lab, version and expiry.
    ///
    /// `now` is `None` where the clock is known to be wrong; the expiry is then not judged.
    ///
    /// # Errors
    /// The first reason to refuse, in the order above.
    pub fn open(
        &self,
        keys: Signed<'_>,
        catalog: Signed<'_>,
        now: Option<Timestamp>,
    ) -> Result<Catalog, CatalogError> {
        self.root.verify(KEYS, &keys)?;
        let list = KeyList::parse(keys.bytes)?;
        self.check_lab(KEYS, list.lab_id)?;
        verify_by_any(&list, &catalog)?;
        let catalog = Catalog::parse(catalog.bytes)?;
        // Without a pinned lab the two documents must still belong together.
        self.check_lab(CATALOG, catalog.lab_id)?;
        if catalog.lab_id != list.lab_id {
            let (found, expected) = (catalog.lab_id, list.lab_id);
            return Err(CatalogError::OtherLab { document: CATALOG, found, expected });
        }
        if catalog.version < self.version_floor {
            let (found, floor) = (catalog.version, self.version_floor);
            return Err(CatalogError::TooOld { found, floor });
        }
        match now {
            Some(now) if now > catalog.expires => {
                Err(CatalogError::Expired { document: CATALOG, expires: catalog.expires, now })
            }
            _ => Ok(catalog),
        }
    }

    fn check_lab(&self, document: &'static str, found: LabId) -> Result<(), CatalogError> {
        match self.lab_id {
            Some(expected) if expected != found => {
                Err(CatalogError::OtherLab { document, found, expected })
            }
            _ => Ok(()),
        }
    }
}

/// Accepts the catalog when one of the listed keys made its signature; otherwise the answer of the
/// key that came closest: altered bytes say more than an unknown key.
fn verify_by_any(list: &KeyList, catalog: &Signed<'_>) -> Result<(), CatalogError> {
    let mut error = CatalogError::UntrustedKey { document: CATALOG };
    for valid in &list.keys {
        match valid.key.verify(CATALOG, catalog) {
            Ok(()) => return Ok(()),
            Err(CatalogError::UntrustedKey { .. }) => {}
            Err(e) => error = e,
        }
    }
    Err(error)
}

/// A root or signing key as it lies in the lab's `keys/` folder: minisign's unencrypted format.
#[cfg(feature = "sign")]
pub struct SecretKey {
    pair: minisign::KeyPair,
}

#[cfg(feature = "sign")]
impl SecretKey {
    /// A new random key.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn generate() -> Result<Self, CatalogError> {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().map_err(bad_key)?;
        Ok(Self { pair })
    }

    /// Reads minisign's secret key file, which must not be encrypted.
    ///
    /// # Errors
    /// [`CatalogError::BadKey`] with the reason.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        let sk = minisign::SecretKeyBox::from_string(text)
            .and_then(minisign::SecretKeyBox::into_unencrypted_secret_key)
            .map_err(bad_key)?;
        let pk = minisign::PublicKey::from_secret_key(&sk).map_err(bad_key)?;
        Ok(Self { pair: minisign::KeyPair { pk, sk } })
    }

    /// The secret key file's text. Keep it at mode 0600.
    ///
    /// # Errors
    /// Never in practice; the library's own check.
    pub fn to_file(&self, comment: &str) -> Result<String, CatalogError> {
        Ok(self.pair.sk.to_box(Some(comment)).map_err(bad_key)?.into_string())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::parse(&self.pair.pk.to_base64()).expect("a key we hold is a valid key")
    }

    /// The text of the `.minisig` file for these bytes; `comment` is the signed ("trusted") comment.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn sign(&self, bytes: &[u8], comment: &str) -> Result<String, CatalogError> {
        let made = minisign::sign(
            Some(&self.pair.pk),
            &self.pair.sk,
            bytes,
            Some(comment),
            Some("signature of a BootTorrent lab"),
        );
        Ok(made.map_err(bad_key)?.into_string())
    }
}

#[cfg(feature = "sign")]
impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(feature = "sign")]
fn bad_key(error: minisign::PError) -> CatalogError {
    CatalogError::BadKey { cause: format!("not a usable minisign secret key: {error}") }
}

#[cfg(all(test, feature = "sign"))]
mod tests {
    use super::*;
    use crate::catalog::tests::sample;

    struct Lab {
        root: SecretKey,
        signing: SecretKey,
    }

    impl Lab {
        fn new() -> Self {
            let key = || SecretKey::generate().expect("random numbers");
            Self { root: key(), signing: key() }
        }

        fn trust(&self) -> Trust {
            Trust { root: self.root.public(), lab_id: Some(sample().lab_id), version_floor: 2 }
        }

        fn list(&self) -> KeyList {
            let key = ValidKey { key: self.signing.public(), name: "server".into() };
            let catalog = sample();
            KeyList { lab_id: catalog.lab_id, version: 1, issued: catalog.issued, keys: vec![key] }
        }
    }

    fn open(
        lab: &Lab,
        trust: &Trust,
        catalog: &Catalog,
        now: i64,
    ) -> Result<Catalog, CatalogError> {
        let keys = lab.list().to_toml();
        let keys_sig = lab.root.sign(keys.as_bytes(), "k").expect("signs");
        let text = catalog.to_toml();
        let sig = lab.signing.sign(text.as_bytes(), "c").expect("signs");
        trust.open(
            Signed { bytes: keys.as_bytes(), signature: &keys_sig },
            Signed { bytes: text.as_bytes(), signature: &sig },
            Some(Timestamp::from_second(now).expect("a time")),
        )
    }

    const NOW: i64 = 1_795_000_100;

    #[test]
    fn a_catalog_of_the_lab_opens() {
        let lab = Lab::new();
        assert_eq!(open(&lab, &lab.trust(), &sample(), NOW), Ok(sample()));
    }

    #[test]
    fn each_reason_to_refuse_is_told_apart() {
        let (lab, other) = (Lab::new(), Lab::new());
        let refused = |trust: &Trust, catalog: &Catalog, now| {
            open(&lab, trust, catalog, now).expect_err("must be refused")
        };
        assert_eq!(
            refused(&other.trust(), &sample(), NOW),
            CatalogError::UntrustedKey { document: "keys.toml" }
        );
        let old = Catalog { version: 1, ..sample() };
        assert_eq!(refused(&lab.trust(), &old, NOW), CatalogError::TooOld { found: 1, floor: 2 });
        let foreign = Catalog { lab_id: LabId([1; 16]), ..sample() };
        assert!(matches!(
            refused(&lab.trust(), &foreign, NOW),
            CatalogError::OtherLab { document: "catalog.toml", .. }
        ));
        assert!(matches!(
            refused(&lab.trust(), &sample(), 1_900_000_000),
            CatalogError::Expired { .. }
        ));
    }

    #[test]
    fn a_key_outside_the_list_cannot_sign_a_catalog() {
        let (lab, thief) = (Lab::new(), SecretKey::generate().expect("random numbers"));
        let keys = lab.list().to_toml();
        let keys_sig = lab.root.sign(keys.as_bytes(), "k").expect("signs");
        let text = sample().to_toml();
        let sig = thief.sign(text.as_bytes(), "c").expect("signs");
        let got = lab.trust().open(
            Signed { bytes: keys.as_bytes(), signature: &keys_sig },
            Signed { bytes: text.as_bytes(), signature: &sig },
            None,
        );
        assert_eq!(got, Err(CatalogError::UntrustedKey { document: "catalog.toml" }));
    }

    #[test]
    fn no_flipped_bit_verifies() {
        let lab = Lab::new();
        let text = sample().to_toml();
        let sig = lab.signing.sign(text.as_bytes(), "c").expect("signs");
        let key = lab.signing.public();
        for at in (0..text.len()).step_by(17) {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << (at % 8);
            let got = key.verify("catalog.toml", &Signed { bytes: &bytes, signature: &sig });
            assert_eq!(got, Err(CatalogError::Altered { document: "catalog.toml" }), "byte {at}");
        }
    }

    #[test]
    fn a_newer_list_is_told_apart_from_a_broken_one() {
        let newer = Lab::new().list().to_toml().replace("bt-keys-v1", "bt-keys-v2");
        let text = newer.replace("minisign = ", "ed25519 = ");
        assert_ne!(text, newer);
        let error = KeyList::parse(text.as_bytes()).expect_err("too new");
        assert!(matches!(error, CatalogError::Version(_)), "{error}");
    }

    #[test]
    fn keys_survive_their_files() {
        let key = SecretKey::generate().expect("random numbers");
        let again = SecretKey::parse(&key.to_file("signing key").expect("writes")).expect("reads");
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_file("lab key")), Ok(key.public()));
        assert!(PublicKey::parse("hello").is_err());
    }
}
