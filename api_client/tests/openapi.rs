//! `openapi.yaml` against the Rust types: the same members, required and default values.
#![allow(clippy::unwrap_used)] // A test that cannot go on is to fail.

use std::collections::{BTreeMap, BTreeSet};

use api_client::types::{answers, console, devices, ft, platform, requests, vm};
use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde_json::{Map, Value, json};

/// A deserializer that only takes down which members a structure has.
struct Members<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Members<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(serde::de::Error::custom("taken down"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("not a structure"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// What one type says about itself.
struct Described {
    name: &'static str,
    members: BTreeSet<&'static str>,
    read: fn(Value) -> Result<Value, serde_json::Error>,
}

fn describe<T: Serialize + DeserializeOwned>(name: &'static str) -> Described {
    let mut members: &'static [&'static str] = &[];
    assert!(T::deserialize(Members(&mut members)).is_err());
    let read = |value| serde_json::from_value::<T>(value).and_then(serde_json::to_value);
    Described {
        name,
        members: members.iter().copied().collect(),
        read,
    }
}

macro_rules! described {
    ($($module:ident :: $type:ident),* $(,)?) => {
        vec![$(describe::<$module::$type>(stringify!($type))),*]
    };
}

fn types() -> Vec<Described> {
    let mut types = described![
        vm::CpuTopology,
        vm::CpuAffinity,
        vm::CpuFeatures,
        vm::CpusConfig,
        vm::MemoryZoneConfig,
        vm::MemoryConfig,
        vm::PayloadConfig,
        vm::VmConfig,
        console::SerialConfig,
        console::ConsoleConfig,
        console::DebugConsoleConfig,
        platform::NumaDistance,
        platform::NumaConfig,
        platform::PciSegmentConfig,
        platform::PlatformConfig,
        platform::TpmConfig,
        platform::LandlockConfig,
        platform::GdbConfig,
        devices::TokenBucketConfig,
        devices::RateLimiterConfig,
        devices::RateLimitGroupConfig,
        devices::QueueAffinity,
        devices::DiskConfig,
        devices::NetConfig,
        devices::RngConfig,
        devices::BalloonConfig,
        devices::GenericVhostUserConfig,
        devices::FsConfig,
        devices::PmemConfig,
        devices::DeviceConfig,
        devices::UserDeviceConfig,
        devices::VdpaConfig,
        devices::VsockConfig,
        devices::RtcConfig,
        requests::VmResize,
        requests::VmResizeDisk,
        requests::VmResizeZone,
        requests::VmRemoveDevice,
        requests::VmSnapshotConfig,
        requests::RestoredNetConfig,
        requests::RestoredVfioConfig,
        requests::ZoneUpdate,
        requests::RestoreConfig,
        requests::SendMigrationConfig,
        requests::ReceiveMigrationConfig,
        ft::ConfigOverrides,
        ft::DiskOverride,
        ft::NetOverride,
        ft::VsockOverride,
        ft::FtReceiveConfig,
        ft::FtStartConfig,
        ft::FtFailoverConfig,
        answers::DeviceNode,
        answers::VmInfo,
        answers::MigrationInfo,
        answers::PciDeviceInfo,
    ];
    types.push(describe::<answers::PingResponse>("VmmPingResponse"));
    types
}

fn document() -> Value {
    serde_yaml_ng::from_str(include_str!("../openapi.yaml")).unwrap()
}

fn schemas(document: &Value) -> &Map<String, Value> {
    document["components"]["schemas"].as_object().unwrap()
}

/// The schema that a `$ref`, alone or under `allOf`, leads to; else the schema itself.
fn resolve<'a>(schemas: &'a Map<String, Value>, schema: &'a Value) -> &'a Value {
    let reference = schema
        .get("$ref")
        .or_else(|| schema.get("allOf")?.get(0)?.get("$ref"));
    match reference {
        Some(path) => {
            let name = path
                .as_str()
                .unwrap()
                .strip_prefix("#/components/schemas/")
                .unwrap();
            schemas
                .get(name)
                .unwrap_or_else(|| panic!("no schema {name}"))
        }
        None => schema,
    }
}

/// A value that fits the schema; objects have every member, or only those required.
fn example(schemas: &Map<String, Value>, schema: &Value, every: bool) -> Value {
    let schema = resolve(schemas, schema);
    match schema["type"].as_str().unwrap() {
        "string" => schema
            .get("enum")
            .map_or(json!("text"), |words| words[0].clone()),
        "boolean" => json!(true),
        "integer" => schema.get("maximum").cloned().unwrap_or(json!(7)),
        "array" => json!([example(schemas, &schema["items"], every)]),
        "object" => match schema.get("properties") {
            Some(properties) => {
                let required = required(schema);
                let members = properties.as_object().unwrap().iter();
                members
                    .filter(|(name, _)| every || required.contains(name.as_str()))
                    .map(|(name, member)| (name.clone(), example(schemas, member, every)))
                    .collect()
            }
            None => json!({}),
        },
        other => panic!("type {other}"),
    }
}

fn required(schema: &Value) -> BTreeSet<&str> {
    let list = schema.get("required").and_then(Value::as_array);
    list.map_or_else(BTreeSet::new, |list| {
        list.iter().map(|name| name.as_str().unwrap()).collect()
    })
}

#[test]
fn every_type_has_a_schema_with_the_same_members() {
    let document = document();
    let schemas = schemas(&document);
    for described in types() {
        let aliases = ["serial_number", "uuid"];
        let members: BTreeSet<&str> = described
            .members
            .iter()
            .copied()
            .filter(|name| !aliases.contains(name))
            .collect();
        let schema = schemas
            .get(described.name)
            .unwrap_or_else(|| panic!("{}", described.name));
        let properties = schema["properties"].as_object().unwrap();
        let in_document: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(in_document, members, "{}", described.name);
    }
}

#[test]
fn every_object_schema_has_a_type() {
    let document = document();
    let known: BTreeSet<&str> = types().iter().map(|described| described.name).collect();
    for (name, schema) in schemas(&document) {
        let object = schema.get("properties").is_some();
        assert!(
            !object || known.contains(name.as_str()),
            "{name} is not checked"
        );
    }
}

#[test]
fn full_examples_read_and_come_back_the_same() {
    let document = document();
    let schemas = schemas(&document);
    for described in types() {
        let full = example(schemas, &schemas[described.name], true);
        let back = (described.read)(full.clone())
            .unwrap_or_else(|error| panic!("{}: {error}: {full}", described.name));
        assert_eq!(back, full, "{}", described.name);
    }
}

#[test]
fn exactly_the_required_members_must_be_there() {
    let document = document();
    let schemas = schemas(&document);
    for described in types() {
        let schema = &schemas[described.name];
        let required = required(schema);
        let full = example(schemas, schema, true);
        for member in full.as_object().unwrap().keys() {
            let mut without = full.clone();
            without.as_object_mut().unwrap().remove(member);
            let read = (described.read)(without);
            let name = described.name;
            assert_eq!(
                read.is_err(),
                required.contains(member.as_str()),
                "{name}.{member}"
            );
        }
    }
}

#[test]
fn defaults_are_those_of_the_types() {
    let document = document();
    let schemas = schemas(&document);
    for described in types() {
        let schema = &schemas[described.name];
        let minimal = (described.read)(example(schemas, schema, false)).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let required = required(schema);
        let in_document: BTreeMap<&str, &Value> = properties
            .iter()
            .filter_map(|(name, member)| Some((name.as_str(), member.get("default")?)))
            .collect();
        for (name, value) in minimal.as_object().unwrap() {
            let structure = value.is_object() || value.is_array();
            if !required.contains(name.as_str()) && !structure {
                let path = format!("{}.{name}", described.name);
                assert_eq!(in_document.get(name.as_str()), Some(&value), "{path}");
            }
        }
        for (name, default) in in_document {
            // A false `iommu` is left out of what is written.
            let written = minimal.get(name).cloned().unwrap_or(json!(false));
            assert_eq!(*default, written, "{}.{name}", described.name);
        }
    }
}

#[test]
fn unknown_members_of_requests_are_refused_and_of_answers_tolerated() {
    let document = document();
    let schemas = schemas(&document);
    for described in types() {
        let schema = &schemas[described.name];
        let mut value = example(schemas, schema, true);
        value
            .as_object_mut()
            .unwrap()
            .insert("surprise".to_owned(), json!(1));
        let closed = schema.get("additionalProperties") == Some(&json!(false));
        let read = (described.read)(value);
        assert_eq!(read.is_err(), closed, "{}", described.name);
        if let Err(error) = read {
            assert!(
                error.to_string().contains("surprise"),
                "{}: {error}",
                described.name
            );
        }
    }
}
