//! The decoder that Llama, Mistral, `SmolLM`, Qwen2 and Qwen3 share.
//!
//! Field names are weight names, in the order in which mlx-lm declares them: the random numbers
//! of new adapters are drawn in that order.

use std::cell::Cell;
use std::rc::Rc;

use graft_kernels::Projections;
use mlx_graft::{Array, ops, transforms};

use super::Cache;
use super::weights::Weights;
use crate::Result;
use crate::nn::{
    Context, Embedding, KeysValues, Linear, Mask, Module, Param, RmsNorm, Rope, RopeScaling,
    Swapped, Visitor, rope_attention, window_start,
};

/// What a model family decides about the decoder.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // independent properties of published models
pub struct DecoderConfig {
    /// The length of a token's vector.
    pub hidden_size: i32,
    /// The number of blocks.
    pub num_layers: usize,
    /// The length of a vector inside the MLP.
    pub intermediate_size: i32,
    /// The number of query heads.
    pub num_heads: i32,
    /// The number of key and value heads.
    pub num_kv_heads: i32,
    /// The length of a head's vector.
    pub head_dim: i32,
    /// The number of tokens known.
    pub vocab_size: i32,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f32,
    /// The base of the rotary angles.
    pub rope_theta: f32,
    /// Whether neighbouring features are rotated instead of the two halves.
    pub rope_traditional: bool,
    /// The scaling of the rotary angles.
    pub rope_scaling: Option<RopeScaling>,
    /// The length the model was trained on.
    pub max_position_embeddings: Option<f32>,
    /// Whether the projections of queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection of the attention has a bias.
    pub output_bias: bool,
    /// Whether the MLP's layers have a bias.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// For each block, how many tokens back it sees; `None` is all.
    pub windows: Vec<Option<i32>>,
}

#[derive(Debug, Module)]
#[allow(clippy::struct_field_names)] // weight names
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    num_heads: i32,
    #[module(skip)]
    num_kv_heads: i32,
    #[module(skip)]
    head_dim: i32,
}

#[derive(Debug, Module)]
#[allow(clippy::struct_field_names)] // weight names
struct Mlp {
    gate_proj: Linear,
    down_proj: Linear,
    up_proj: Linear,
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

#[derive(Debug, Module)]
struct Backbone {
    embed_tokens: Embedding,
    layers: Vec<Rc<Block>>,
    norm: RmsNorm,
}

/// The output layer of a decoder; a clone is the same layer.
#[derive(Debug, Clone)]
pub enum Head {
    /// A layer of its own.
    Linear(Linear),
    /// The embedding.
    Embedding(Embedding),
}

impl Head {
    /// Hidden vectors `(…, D)` to logits `(…, V)`.
    pub fn forward(&self, x: &Array, ctx: &Context) -> Result<Array> {
        match self {
            Self::Linear(linear) => linear.forward(x, ctx),
            Self::Embedding(embedding) => embedding.as_linear(x, ctx),
        }
    }

    /// Whether no weight of the layer is trained.
    pub fn is_frozen(&self) -> bool {
        let params = match self {
            Self::Linear(linear) => linear.params(),
            Self::Embedding(embedding) => embedding.params(),
        };
        !params.iter().any(|(_, param)| param.is_trainable())
    }
}

/// A decoder with its output layer.
#[derive(Debug, Module)]
pub struct Decoder {
    model: Backbone,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: DecoderConfig,
    #[module(skip)]
    grad_checkpoint: Cell<bool>,
}

impl Attention {
    fn load(config: &DecoderConfig, weights: &mut Weights) -> Result<Self> {
        let (dim, head) = (config.hidden_size, config.head_dim);
        let (q, kv) = (config.num_heads * head, config.num_kv_heads * head);
        let norm = |name: &str, weights: &mut Weights| {
            config.qk_norm.then(|| weights.rms_norm(name, head, config.rms_norm_eps)).transpose()
        };
        Ok(Self {
            q_proj: weights.linear("q_proj", q, dim, config.qkv_bias)?,
            k_proj: weights.linear("k_proj", kv, dim, config.qkv_bias)?,
            v_proj: weights.linear("v_proj", kv, dim, config.qkv_bias)?,
            o_proj: weights.linear("o_proj", dim, q, config.output_bias)?,
            q_norm: norm("q_norm", weights)?,
            k_norm: norm("k_norm", weights)?,
            rope: Rope::new(
                head,
                config.rope_theta,
                config.rope_traditional,
                config.rope_scaling.as_ref(),
                config.max_position_embeddings,
            )?,
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: head,
        })
    }

    fn forward(
        &self,
        x: &Array,
        mask: &Mask,
        cache: Option<&mut Cache>,
        ctx: &Context,
    ) -> Result<Array> {
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let [q, k, v] = Linear::forward_each([&self.q_proj, &self.k_proj, &self.v_proj], x, ctx)?;
        let normalized = |y: Array, norm: Option<&RmsNorm>| -> Result<Array> {
            let Some(norm) = norm else { return Ok(y) };
            let y = ops::reshape(&y, &[batch, length, -1, self.head_dim])?;
            Ok(ops::reshape(&norm.forward(&y)?, &[batch, length, -1])?)
        };
        let (q, k) = (normalized(q, self.q_norm.as_ref())?, normalized(k, self.k_norm.as_ref())?);

        let (heads, kv_heads) = (self.num_heads, self.num_kv_heads);
        let new = Projections { queries: &q, keys: &k, values: &v, heads, kv_heads };
        let scale = (self.head_dim as f32).powf(-0.5);
        let out = match cache {
            Some(cache) => cache.attend(new, &self.rope, mask, scale)?,
            None => {
                rope_attention(new, &self.rope, 0, mask, scale, |k, v| Ok(KeysValues::Dense(k, v)))?
            }
        }; // (B, T, H * D)
        self.o_proj.forward(&out, ctx)
    }
}

impl Mlp {
    fn load(config: &DecoderConfig, weights: &mut Weights) -> Result<Self> {
        let (dim, inner) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_proj: weights.linear("gate_proj", inner, dim, config.mlp_bias)?,
            down_proj: weights.linear("down_proj", dim, inner, config.mlp_bias)?,
            up_proj: weights.linear("up_proj", inner, dim, config.mlp_bias)?,
        })
    }

    /// `SwiGLU` (Shazeer, 2020).
    fn forward(&self, x: &Array, ctx: &Context) -> Result<Array> {
        let [gate, up] = Linear::forward_each([&self.gate_proj, &self.up_proj], x, ctx)?;
        self.down_proj.forward(&graft_kernels::swiglu(&gate, &up)?, ctx)
    }
}

impl Block {
    fn load(config: &DecoderConfig, weights: &mut Weights) -> Result<Self> {
        let (dim, eps) = (config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: weights.scope("self_attn", |weights| Attention::load(config, weights))?,
            mlp: weights.scope("mlp", |weights| Mlp::load(config, weights))?,
            input_layernorm: weights.rms_norm("input_layernorm", dim, eps)?,
            post_attention_layernorm: weights.rms_norm("post_attention_layernorm", dim, eps)?,
        })
    }

    /// The output for the sum of `x` and, if there is one, `y`, as two arrays that are to be added:
    /// whoever normalises the sum adds them.
    fn forward(
        &self,
        (x, y): (&Array, Option<&Array>),
        mask: &Mask,
        cache: Option<&mut Cache>,
        ctx: &Context,
    ) -> Result<[Array; 2]> {
        let (x, normal) = self.input_layernorm.forward_sum(x, y)?;
        let attended = self.self_attn.forward(&normal, mask, cache, ctx)?;
        let (h, normal) = self.post_attention_layernorm.forward_sum(&x, Some(&attended))?;
        Ok([h, self.mlp.forward(&normal, ctx)?])
    }

    /// What a pass through the block needs. It draws from a key of its own, so that a block that is
    /// computed again drops what others do; without dropout no key is split.
    fn context(&self, ctx: &Context) -> Result<Context> {
        struct Find(bool);
        impl Visitor for Find {
            fn linear(&mut self, _path: &str, linear: &Linear) {
                self.0 |= linear.dropout() > 0.0;
            }
        }
        let mut drops = Find(false);
        if ctx.is_training() {
            self.visit(&mut String::new(), &mut drops);
        }
        if drops.0 { ctx.part() } else { Ok(Context::eval()) }
    }

    /// The same as [`Block::forward`], keeping nothing but its input for the backward pass.
    fn forward_checkpointed(
        self: &Rc<Self>,
        x: &Array,
        mask: &Mask,
        ctx: &Context,
    ) -> Result<Array> {
        let trained: Vec<Param> =
            self.params().into_iter().map(|(_, p)| p).filter(Param::is_trainable).collect();
        let key = ctx.key();
        // Gradients flow to the inputs of a checkpointed function only, not to what it captures.
        let mut inputs = vec![x.clone()];
        inputs.extend(trained.iter().map(Param::get));
        let (count, keyed) = (trained.len(), key.is_some());
        inputs.extend(key);
        let (block, mask) = (Rc::clone(self), mask.clone());
        let run = transforms::checkpoint(move |inputs| {
            let _swapped = Swapped::new(&trained, &inputs[1..=count]);
            let ctx = if keyed {
                // All inputs of a checkpointed function are differentiated; random bits cannot be.
                Context::train(ops::stop_gradient(&inputs[count + 1])?)
            } else {
                Context::eval()
            };
            let out = block.forward((&inputs[0], None), &mask, None, &ctx);
            let [x, y] = out.map_err(mlx_graft::Error::from)?;
            Ok(vec![ops::add(&x, &y)?])
        })?;
        Ok(run.call(&inputs)?.swap_remove(0))
    }
}

impl Decoder {
    /// Builds the decoder from weights, checking every shape.
    pub fn load(config: DecoderConfig, weights: &mut Weights) -> Result<Self> {
        let (dim, vocab) = (config.hidden_size, config.vocab_size);
        let model = weights.scope("model", |weights| {
            Ok(Backbone {
                embed_tokens: weights.embedding("embed_tokens", vocab, dim)?,
                layers: weights.scope("layers", |weights| {
                    (0..config.num_layers)
                        .map(|i| {
                            weights.scope(&i.to_string(), |weights| Block::load(&config, weights))
                        })
                        .map(|block| block.map(Rc::new))
                        .collect()
                })?,
                norm: weights.rms_norm("norm", dim, config.rms_norm_eps)?,
            })
        })?;
        let lm_head = (!config.tie_word_embeddings)
            .then(|| weights.linear("lm_head", vocab, dim, false))
            .transpose()?;
        Ok(Self { model, lm_head, config, grad_checkpoint: Cell::new(false) })
    }

    /// The number of blocks.
    pub fn num_layers(&self) -> usize {
        self.model.layers.len()
    }

    /// Empty caches, one per block, that hold at most `max_kv_size` tokens if it is given.
    pub fn make_cache(&self, max_kv_size: Option<i32>) -> Vec<Cache> {
        self.config.windows.iter().map(|window| Cache::new(*window, max_kv_size)).collect()
    }

    /// The number of tokens known.
    pub fn vocab_size(&self) -> i32 {
        self.config.vocab_size
    }

    /// The number of features of a head.
    pub fn head_dim(&self) -> i32 {
        self.config.head_dim
    }

    /// The block numbered `index`.
    pub fn layer(&self, index: usize) -> &dyn Module {
        &self.model.layers[index]
    }

    /// The bytes that a pass over tokens of shape `(batch, length)` holds at once on a CPU, at the
    /// very least: the logits of `logit_rows` tokens, and of every block that the backward pass goes
    /// through the inputs of norms, of attention and of the gate.
    pub fn least_bytes(&self, batch: i32, length: i32, logit_rows: i32, backward: bool) -> u64 {
        let number = |x: i32| u64::try_from(x).unwrap_or(0);
        let config = &self.config;
        let heads = number(2 * config.num_heads + 2 * config.num_kv_heads);
        let block = 2 * number(config.hidden_size)
            + heads * number(config.head_dim)
            + 2 * number(config.intermediate_size);
        let kept = match (backward, self.grad_checkpoint.get()) {
            (false, _) => 0,
            (true, false) => self.blocks_passed_back() * block,
            (true, true) => {
                let blocks = self.blocks_passed_back();
                blocks * number(config.hidden_size) + blocks.min(1) * block
            }
        };
        // The backward pass has the logits and their gradient.
        let logits = number(config.vocab_size) * if backward { 2 } else { 1 };
        let size = self.model.norm.dtype().size() as u64;
        size * (number(batch) * number(length) * kept + number(logit_rows) * logits)
    }

    /// How many blocks the backward pass goes through: those from the first with a weight that is
    /// trained, and all if the embedding is trained.
    fn blocks_passed_back(&self) -> u64 {
        let is_trained =
            |module: &dyn Module| module.params().iter().any(|(_, param)| param.is_trainable());
        let layers = &self.model.layers;
        let first = if is_trained(&self.model.embed_tokens) {
            0
        } else {
            layers.iter().position(|block| is_trained(&**block)).unwrap_or(layers.len())
        };
        (layers.len() - first) as u64
    }

    /// The number of elements that the quantized weight of this name stands for.
    pub fn unpacked_size(&self, name: &str) -> usize {
        struct Find<'a>(&'a str, usize);
        impl Visitor for Find<'_> {
            fn linear(&mut self, path: &str, linear: &Linear) {
                if self.0.strip_suffix(".weight") == Some(path) {
                    self.1 = linear.dims().map_or(0, |(o, i)| o as usize * i as usize);
                }
            }
            fn embedding(&mut self, path: &str, embedding: &Embedding) {
                if self.0.strip_suffix(".weight") == Some(path) {
                    self.1 = embedding.dims().map_or(0, |(v, d)| v as usize * d as usize);
                }
            }
        }
        let mut find = Find(name, 0);
        self.visit(&mut String::new(), &mut find);
        find.1
    }

    /// Decides whether training keeps only the input of each block, and computes the rest again
    /// in the backward pass.
    pub fn set_grad_checkpoint(&self, on: bool) {
        self.grad_checkpoint.set(on);
    }

    /// The logits of `tokens`: int32 `(B, T)` to `(B, T, V)`.
    ///
    /// With caches, one per block, the tokens follow those that the caches hold.
    pub fn forward(
        &self,
        tokens: &Array,
        caches: Option<&mut [Cache]>,
        ctx: &Context,
    ) -> Result<Array> {
        self.head().forward(&self.hidden(tokens, caches, ctx)?, ctx)
    }

    /// The output layer.
    pub fn head(&self) -> Head {
        match &self.lm_head {
            Some(head) => Head::Linear(head.clone()),
            None => Head::Embedding(self.model.embed_tokens.clone()),
        }
    }

    /// What the output layer gets: int32 `(B, T)` to `(B, T, D)`; as [`Decoder::forward`].
    pub fn hidden(
        &self,
        tokens: &Array,
        caches: Option<&mut [Cache]>,
        ctx: &Context,
    ) -> Result<Array> {
        self.blocks(tokens, caches, None, ctx)
    }

    /// What the output layer gets for rows that lie one behind the other: int32 `(1, T)` to
    /// `(1, T, D)`. `starts`, int32 `(1, T)`, is where the row of each token begins.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) unless [`Decoder::can_pack`].
    pub fn hidden_of_packed(&self, tokens: &Array, starts: &Array, ctx: &Context) -> Result<Array> {
        if !self.can_pack() {
            return Err(crate::Error::Unsupported(
                "rows cannot lie one behind the other: the model's rotary angles depend on the \
                 length of a row"
                    .into(),
            ));
        }
        self.blocks(tokens, None, Some(starts), ctx)
    }

    /// Whether what a token gets depends on the width of its batch, by way of rotary angles.
    pub fn depends_on_width(&self) -> bool {
        self.model.layers.iter().any(|block| block.self_attn.rope.depends_on_length())
    }

    /// Whether rows may lie one behind the other: what a token gets depends on how far it is from
    /// those that it sees, and not on where its row begins.
    pub fn can_pack(&self) -> bool {
        !self.depends_on_width()
    }

    fn blocks(
        &self,
        tokens: &Array,
        caches: Option<&mut [Cache]>,
        starts: Option<&Array>,
        ctx: &Context,
    ) -> Result<Array> {
        // (B, T, D), and what is to be added
        let (mut h, mut y) = (self.model.embed_tokens.forward(tokens, ctx)?, None);
        let length = h.dim(1)?;
        let mut caches = caches.map(|caches| caches.iter_mut());
        for (block, window) in self.model.layers.iter().zip(&self.config.windows) {
            let cache = caches.as_mut().and_then(Iterator::next);
            let mask = match &cache {
                Some(cache) => cache.mask(length)?,
                None => mask(length, starts, *window)?,
            };
            let ctx = block.context(ctx)?;
            if self.grad_checkpoint.get() && cache.is_none() {
                h = block.forward_checkpointed(&h, &mask, &ctx)?;
            } else {
                let [sum, out] = block.forward((&h, y.as_ref()), &mask, cache, &ctx)?;
                (h, y) = (sum, Some(out));
            }
        }
        Ok(self.model.norm.forward_sum(&h, y.as_ref())?.1)
    }
}

/// Which keys are seen in a pass over `length` tokens whose rows begin at `starts`, or at the first.
fn mask(length: i32, starts: Option<&Array>, window: Option<i32>) -> Result<Mask> {
    let window = window.filter(|window| length > *window);
    Ok(match (starts, window) {
        (None, None) if length == 1 => Mask::None,
        (None, None) => Mask::Causal,
        (None, Some(window)) => Mask::From(window_start(length, 0, window)?),
        (Some(starts), None) => Mask::From(starts.clone()),
        (Some(starts), Some(window)) => {
            Mask::From(ops::maximum(starts, &window_start(length, 0, window)?)?)
        }
    })
}
