//! `adapter_config.json`: how the adapters beside it were made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use crate::args::keys::{Keys, Origins};
use crate::args::{FineTuneType, LoraParameters, TrainArgs};
use crate::fsutil::{sync, write_atomic};
use crate::{Error, Result};

/// The name of the file, in the folder of the adapters.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What `adapter_config.json` says about the adapters beside it.
///
/// The file is mlx-lm's: `save_config` of its `utils.py` writes all options of the training, and
/// `load_adapters` of its `tuner/utils.py` reads the three below.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// What was trained.
    pub fine_tune_type: FineTuneType,
    /// How many layers are adapted, counted from the last; 0 and -1 mean all.
    pub num_layers: i64,
    /// The options of the adapters.
    pub lora_parameters: LoraParameters,
    /// The other options of the training, for people.
    pub other: Map<String, Value>,
}

impl AdapterConfig {
    /// The configuration of a training with `args`.
    pub fn from_args(args: &TrainArgs) -> Self {
        let Ok(Value::Object(mut other)) = serde_json::to_value(args) else {
            unreachable!("the options are a struct of plain values");
        };
        for key in ["fine_tune_type", "num_layers", "lora_parameters"] {
            other.shift_remove(key);
        }
        Self {
            fine_tune_type: args.fine_tune_type,
            num_layers: args.num_layers,
            lora_parameters: args.lora_parameters.clone(),
            other,
        }
    }

    /// The configuration of whole layers that are trained: a model without adapters.
    pub fn full() -> Self {
        Self {
            fine_tune_type: FineTuneType::Full,
            num_layers: -1,
            lora_parameters: LoraParameters::default(),
            other: Map::new(),
        }
    }

    /// Writes the file into `folder`, atomically, with sorted keys as upstream, unless it is there
    /// with the same content. `before` is called when the new file is whole and about to take the
    /// place of the old one.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, and those of `before`; the old file is then as it was.
    pub fn write(&self, folder: &Path, before: impl FnOnce() -> Result<()>) -> Result<()> {
        let path = folder.join(ADAPTER_CONFIG);
        let json = |value: Result<Value, serde_json::Error>| {
            value.map_err(|error| Error::invalid(&path, error.to_string()))
        };
        let mut all: BTreeMap<String, Value> = self.other.clone().into_iter().collect();
        all.insert("fine_tune_type".into(), json(serde_json::to_value(self.fine_tune_type))?);
        all.insert("num_layers".into(), self.num_layers.into());
        let parameters = match self.fine_tune_type {
            FineTuneType::Lora => json(serde_json::to_value(&self.lora_parameters))?,
            FineTuneType::Full => Value::Null,
        };
        all.insert("lora_parameters".into(), parameters);
        let mut bytes = Vec::new();
        let mut serializer =
            Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
        all.serialize(&mut serializer).map_err(|e| Error::invalid(&path, e.to_string()))?;
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        write_atomic(&path, |temporary| {
            fs::write(temporary, &bytes).map_err(Error::io(&path))?;
            sync(temporary).map_err(Error::io(&path))?;
            before()
        })
    }

    /// Whether adapters of both lie in the same layers of a model and do the same with their weights.
    pub fn places_alike(&self, other: &Self) -> bool {
        self.fine_tune_type == other.fine_tune_type
            && self.num_layers == other.num_layers
            && self.lora_parameters == other.lora_parameters
    }

    /// Reads the file in `folder`, mlx-lm's or ours.
    ///
    /// # Errors
    /// [`Error::NotFound`] without folder or file; [`Error::Invalid`] for broken JSON, values of
    /// a wrong type, or another framework's adapters; [`Error::Unsupported`] for `DoRA`.
    pub fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::not_found(
                folder,
                "no such folder; adapters are a folder with adapters.safetensors and \
                 adapter_config.json",
            ));
        }
        let path = folder.join(ADAPTER_CONFIG);
        let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(
                &path,
                "no such file; --adapter-path takes the folder that training wrote",
            ),
            _ => Error::Io { path: path.clone(), source },
        })?;
        let values: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| Error::Invalid {
                path: path.clone(),
                line: Some(error.line()),
                message: format!("not a JSON object: {error}"),
            })?;
        Self::from_values(values).map_err(|error| match error {
            Error::Usage(message) => Error::invalid(&path, message),
            other => other,
        })
    }

    fn from_values(mut values: Map<String, Value>) -> Result<Self> {
        if values.contains_key("peft_type") {
            return Err(Error::Usage(
                "these are adapters of PEFT; mlx-lm's are read here (keys `num_layers` and \
                 `lora_parameters`)"
                    .to_owned(),
            ));
        }
        let origins = Origins::default();
        let mut ours = Map::new();
        for key in ["fine_tune_type", "num_layers", "lora_parameters"] {
            ours.extend(values.shift_remove(key).map(|value| (key.to_owned(), value)));
        }
        let mut keys = Keys::new(ours, "", &origins);
        let choices = [
            ("lora", Some(FineTuneType::Lora)),
            ("full", Some(FineTuneType::Full)),
            ("dora", None),
        ];
        let Some(fine_tune_type) =
            keys.choice("fine_tune_type", Some(FineTuneType::Lora), &choices)?
        else {
            return Err(Error::Unsupported(
                "adapters of DoRA are not built here; those of lora and full are".to_owned(),
            ));
        };
        let parameters = keys.mapping("lora_parameters")?;
        let num_layers = keys.integer("num_layers", i64::MIN, -1..=i64::MAX)?;
        if fine_tune_type == FineTuneType::Lora && (parameters.is_none() || num_layers == i64::MIN)
        {
            let missing = if parameters.is_none() { "lora_parameters" } else { "num_layers" };
            return Err(keys.error(missing, "missing; the adapters can't be placed without it"));
        }
        let lora_parameters = match parameters {
            // Of full fine-tuning the file has none, or mlx-lm does not read them.
            Some(_) if fine_tune_type == FineTuneType::Full => LoraParameters::default(),
            Some(parameters) => LoraParameters::read_made(parameters, &origins)?,
            None => LoraParameters::default(),
        };
        Ok(Self { fine_tune_type, num_layers: num_layers.max(-1), lora_parameters, other: values })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::{ADAPTER_CONFIG, AdapterConfig};
    use crate::args::{FineTuneType, LoraParameters, TrainArgs};

    fn read(value: &Value) -> crate::Result<AdapterConfig> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(ADAPTER_CONFIG), value.to_string()).unwrap();
        AdapterConfig::read(folder.path())
    }

    #[test]
    fn writes_all_options_sorted_and_reads_them_back() {
        let folder = tempfile::tempdir().unwrap();
        let config = AdapterConfig::from_args(&TrainArgs::default());
        config.write(folder.path(), || Ok(())).unwrap();
        let text = fs::read_to_string(folder.path().join(ADAPTER_CONFIG)).unwrap();
        assert!(text.starts_with("{\n    \"adapter_path\": \"adapters\",\n"), "{text}");
        let keys: Vec<String> = serde_json::from_str::<serde_json::Map<_, Value>>(&text)
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert!(keys.is_sorted());
        assert!(keys.contains(&"learning_rate".to_owned()));
        let back = AdapterConfig::read(folder.path()).unwrap();
        assert_eq!(back.lora_parameters, config.lora_parameters);
        assert_eq!(back.num_layers, 16);
    }

    #[test]
    fn another_content_is_announced_before_it_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ADAPTER_CONFIG);
        let mut config = AdapterConfig::full();
        let count = |config: &AdapterConfig, wanted: Option<&[u8]>| {
            let mut calls = 0;
            let before = || {
                calls += 1;
                assert_eq!(fs::read(&path).ok().as_deref(), wanted);
                Ok(())
            };
            config.write(folder.path(), before).unwrap();
            calls
        };
        assert_eq!(count(&config, None), 1);
        assert_eq!(count(&config, None), 0, "it is there already");
        let old = fs::read(&path).unwrap();
        config.other.insert("iters".into(), json!(3));
        assert_eq!(count(&config, Some(&old)), 1);
        let stop = || Err(crate::Error::Interrupted("stop".into()));
        let new = fs::read(&path).unwrap();
        assert!(AdapterConfig::full().write(folder.path(), stop).is_err());
        assert_eq!(fs::read(&path).unwrap(), new, "what was refused changes nothing");
    }

    #[test]
    fn full_fine_tuning_has_no_adapters_as_upstream() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = AdapterConfig::from_args(&TrainArgs::default());
        config.fine_tune_type = FineTuneType::Full;
        config.write(folder.path(), || Ok(())).unwrap();
        let text = fs::read_to_string(folder.path().join(ADAPTER_CONFIG)).unwrap();
        assert!(text.contains("\"lora_parameters\": null"), "{text}");
        assert_eq!(AdapterConfig::read(folder.path()).unwrap().fine_tune_type, FineTuneType::Full);
    }

    #[test]
    fn optional_keys_may_be_missing_and_others_unknown() {
        let found = read(&json!({
            "num_layers": 4, "lora_parameters": {"rank": 2, "scale": 10.0}, "something": [1]
        }))
        .unwrap();
        assert_eq!(found.fine_tune_type, FineTuneType::Lora);
        assert_eq!((found.lora_parameters.rank, found.lora_parameters.dropout), (2, 0.0));
        assert_eq!(found.other["something"], json!([1]));
    }

    #[test]
    fn parameters_are_read_as_mlx_lm_reads_them() {
        let parameters = |value: Value| {
            let read = read(&json!({"num_layers": 1, "lora_parameters": value}));
            read.map(|config| config.lora_parameters).map_err(|error| error.to_string())
        };
        let found = parameters(json!({"rank": 4, "alpha": 16, "scale": 10.0, "new": 1})).unwrap();
        assert_eq!(found, LoraParameters { rank: 4, dropout: 0.0, scale: 10.0, keys: None });
        for (value, key) in [
            (json!({"rank": 8}), "scale"),
            (json!({"scale": 2.0, "rank": null}), "rank"),
            (json!({"rank": 8, "alpha": 16}), "alpha"),
        ] {
            let message = parameters(value).unwrap_err();
            assert!(message.contains(&format!("json: `lora_parameters.{key}`: ")), "{message}");
        }
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let message = |value| read(&value).unwrap_err().to_string();
        let found = message(json!({"lora_parameters": {"rank": 2}}));
        assert!(found.contains("adapter_config.json: `num_layers`: missing"), "{found}");
        let found = message(json!({"num_layers": 1, "lora_parameters": {"rank": "x"}}));
        assert!(found.contains("`lora_parameters.rank`: found the text \"x\""), "{found}");
        assert!(message(json!({"peft_type": "LORA", "r": 8})).contains("adapters of PEFT"));
        assert!(message(json!({"fine_tune_type": "dora"})).contains("DoRA"));
    }

    #[test]
    fn a_missing_folder_and_a_missing_file_differ() {
        let folder = tempfile::tempdir().unwrap();
        let message = AdapterConfig::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("adapter_config.json: no such file"), "{message}");
        let missing = folder.path().join("no");
        let message = AdapterConfig::read(&missing).unwrap_err().to_string();
        assert!(message.contains("no such folder"), "{message}");
    }
}
