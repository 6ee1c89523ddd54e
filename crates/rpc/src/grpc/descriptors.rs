//! The files that describe services and messages, by what is in them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
};

/// The descriptors of the services that every server has.
const OWN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Why a set of descriptors was not taken. What was known stays.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorsError {
    /// Not a `FileDescriptorSet`.
    #[error("no serialised FileDescriptorSet: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A file of that name and with other content is known.
    #[error("two different files are called `{0}`; give one of them another path")]
    Conflict(String),
    /// A file imports one that is neither in the set nor known.
    #[error("`{file}` imports `{import}`, which is not there; compile with all imports included")]
    MissingImport {
        /// Which one imports.
        file: String,
        /// What it imports.
        import: String,
    },
}

/// A `FileDescriptorSet` whose files are left as they are, with options that nobody here knows.
#[derive(Clone, PartialEq, Eq, Message)]
struct RawSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

/// Files by name, and names of files by what is in them. Names are without a leading dot.
#[derive(Clone, Debug)]
pub(super) struct Descriptors {
    files: BTreeMap<String, File>,
    symbols: BTreeMap<String, String>,
    extensions: BTreeMap<String, BTreeMap<i32, String>>,
}

#[derive(Clone, Debug)]
struct File {
    bytes: Bytes,
    imports: Vec<String>,
}

impl Default for Descriptors {
    /// The own services'.
    fn default() -> Self {
        let mut own = Self {
            files: BTreeMap::new(),
            symbols: BTreeMap::new(),
            extensions: BTreeMap::new(),
        };
        // The build wrote them; were they none, reflection would not know these services.
        let _ = own.add(OWN);
        own
    }
}

impl Descriptors {
    /// Adds the files of a set.
    ///
    /// # Errors
    /// [`DescriptorsError`]; part of the set may have been added.
    pub(super) fn add(&mut self, set: &[u8]) -> Result<(), DescriptorsError> {
        let mut added = Vec::new();
        for bytes in RawSet::decode(set)?.file {
            let file = FileDescriptorProto::decode(&bytes[..])?;
            let name = file.name().to_owned();
            match self.files.get(&name) {
                Some(known) if known.bytes == bytes => continue,
                Some(_) => return Err(DescriptorsError::Conflict(name)),
                None => {}
            }
            self.index(&name, &file);
            let imports = file.dependency;
            self.files.insert(name.clone(), File { bytes, imports });
            added.push(name);
        }
        for name in added {
            let imports = self.files.get(&name).map_or(&[][..], |file| &file.imports);
            if let Some(import) = imports.iter().find(|it| !self.files.contains_key(*it)) {
                let import = import.clone();
                return Err(DescriptorsError::MissingImport { file: name, import });
            }
        }
        Ok(())
    }

    /// A file and all that it imports, itself first.
    pub(super) fn file(&self, name: &str) -> Option<Vec<Bytes>> {
        self.files.get(name)?;
        let (mut seen, mut found) = (BTreeSet::from([name]), Vec::new());
        let mut next = vec![name];
        while let Some(file) = next.pop().and_then(|name| self.files.get(name)) {
            found.push(file.bytes.clone());
            let imports = file.imports.iter().map(String::as_str);
            next.extend(imports.filter(|import| seen.insert(import)));
        }
        Some(found)
    }

    /// The file with a message, an enum, a service, a method or an extension.
    pub(super) fn file_with_symbol(&self, symbol: &str) -> Option<Vec<Bytes>> {
        self.file(self.symbols.get(symbol)?)
    }

    pub(super) fn file_with_extension(&self, message: &str, number: i32) -> Option<Vec<Bytes>> {
        self.file(self.extensions.get(message)?.get(&number)?)
    }

    /// The numbers of a message's extensions; `None` where the message is not known.
    pub(super) fn extensions_of(&self, message: &str) -> Option<Vec<i32>> {
        let numbers = self.extensions.get(message).map(BTreeMap::keys);
        match numbers {
            Some(numbers) => Some(numbers.copied().collect()),
            None => self.symbols.get(message).map(|_| Vec::new()),
        }
    }

    fn index(&mut self, name: &str, file: &FileDescriptorProto) {
        let package = file.package();
        for message in &file.message_type {
            self.index_message(name, package, message);
        }
        self.index_enums(name, package, &file.enum_type);
        self.index_extensions(name, package, &file.extension);
        for service in &file.service {
            let service_name = joined(package, service.name());
            for method in &service.method {
                self.symbol(name, joined(&service_name, method.name()));
            }
            self.symbol(name, service_name);
        }
    }

    /// Recurses as deep as the file does; whoever registers files is the program itself.
    fn index_message(&mut self, file: &str, scope: &str, message: &DescriptorProto) {
        let name = joined(scope, message.name());
        for nested in &message.nested_type {
            self.index_message(file, &name, nested);
        }
        self.index_enums(file, &name, &message.enum_type);
        self.index_extensions(file, &name, &message.extension);
        self.symbol(file, name);
    }

    fn index_enums(&mut self, file: &str, scope: &str, enums: &[EnumDescriptorProto]) {
        for it in enums {
            self.symbol(file, joined(scope, it.name()));
        }
    }

    fn index_extensions(&mut self, file: &str, scope: &str, extensions: &[FieldDescriptorProto]) {
        for extension in extensions {
            let extended = extension.extendee().trim_start_matches('.').to_owned();
            let numbers = self.extensions.entry(extended).or_default();
            numbers.insert(extension.number(), file.to_owned());
            self.symbol(file, joined(scope, extension.name()));
        }
    }

    fn symbol(&mut self, file: &str, symbol: String) {
        self.symbols.insert(symbol, file.to_owned());
    }
}

fn joined(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        return name.to_owned();
    }
    format!("{scope}.{name}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const HEALTH: &str = "grpc/health/v1/health.proto";

    fn set(files: &[FileDescriptorProto]) -> Vec<u8> {
        let file = files
            .iter()
            .map(|file| file.encode_to_vec().into())
            .collect();
        RawSet { file }.encode_to_vec()
    }

    fn file(name: &str, imports: &[&str]) -> FileDescriptorProto {
        FileDescriptorProto {
            name: Some(name.into()),
            package: Some("p".into()),
            dependency: imports.iter().map(ToString::to_string).collect(),
            message_type: vec![DescriptorProto {
                name: Some(name.to_uppercase()),
                extension: vec![FieldDescriptorProto {
                    name: Some("more".into()),
                    number: Some(7),
                    extendee: Some(".p.A".into()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn given_the_own_services_then_each_of_their_names_leads_to_its_file() {
        let own = Descriptors::default();
        for symbol in [
            "grpc.health.v1.Health",
            "grpc.health.v1.Health.Watch",
            "grpc.health.v1.HealthCheckRequest",
            "grpc.health.v1.HealthCheckResponse.ServingStatus",
        ] {
            assert_eq!(own.file_with_symbol(symbol), own.file(HEALTH), "{symbol}");
        }
        assert_eq!(own.file_with_symbol("grpc.health.v1.Nobody"), None);
        assert!(own.file("grpc/reflection/v1/reflection.proto").is_some());
    }

    #[test]
    fn given_files_that_import_each_other_then_a_file_comes_with_each_import_once() {
        let files = [file("a", &["b", "c"]), file("b", &["c"]), file("c", &[])];
        let mut descriptors = Descriptors::default();
        descriptors.add(&set(&files)).unwrap();
        descriptors.add(&set(&files)).unwrap();
        let found = descriptors.file_with_symbol("p.A").unwrap();
        let names: BTreeSet<_> = found
            .iter()
            .map(|bytes| {
                FileDescriptorProto::decode(&bytes[..])
                    .unwrap()
                    .name()
                    .to_owned()
            })
            .collect();
        assert_eq!((found.len(), names.len()), (3, 3));
        assert_eq!(descriptors.extensions_of("p.A"), Some(vec![7]));
        assert!(descriptors.file_with_extension("p.A", 7).is_some());
    }

    #[test]
    fn given_a_set_that_does_not_fit_then_it_is_refused_with_the_reason() {
        let mut descriptors = Descriptors::default();
        let missing = descriptors.add(&set(&[file("a", &["b"])]));
        assert!(matches!(
            missing,
            Err(DescriptorsError::MissingImport { .. })
        ));
        let conflict = descriptors.add(&set(&[file(HEALTH, &[])]));
        assert!(matches!(conflict, Err(DescriptorsError::Conflict(_))));
        let malformed = descriptors.add(&[255]);
        assert!(matches!(malformed, Err(DescriptorsError::Malformed(_))));
    }
}
