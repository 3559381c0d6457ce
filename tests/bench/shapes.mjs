// Shapes of models with their tensors, their adapters and how many samples they are given. Numbers are those of the
// published checkpoints' config.json; standard deviations are those that transformers starts the family's weights with.

/**
 * @typedef {{ name: string, shape: number[], deviation: number }} Tensor `deviation` 0: a norm's scale, all ones
 * @typedef {object} Shape
 * @property {string} title
 * @property {Record<string, unknown>} config config.json
 * @property {Record<string, unknown>} [preprocessor] preprocessor_config.json
 * @property {Tensor[]} tensors
 * @property {string | null} taskType PEFT's
 * @property {Record<string, string[]>} targets the modules of the adapters, by the name of a choice
 * @property {number} vocabulary
 * @property {number} [rank] of the adapters, 8 if nobody says
 * @property {{ tasks: number, samples: number, tokens: number, answer: number }} calibration `tokens`: of a text, or of a
 *   picture; `answer`: tokens given as a target, 0 for a text or a picture alone
 * @property {{ side: number, ends?: number }} [picture] samples are pictures, this many pixels high and wide; `ends`: the
 *   token that ends an answer
 * @property {{ measured: number, whole: number }} [blocks] of a part of a model: how many it has, and how many the model
 */

/** @param {string} name @param {number[]} shape @param {number} deviation @returns {Tensor} */
const tensor = (name, shape, deviation) => ({ name, shape, deviation });

const paper = { tasks: 2, samples: 50, tokens: 128 };

/**
 * T5 of the first version: ReLU, tied head.
 * @param {string} title
 * @param {{ model: number, feedForward: number, head: number, heads: number, layers: number, vocabulary: number }} size
 * @param {Shape["calibration"]} calibration
 * @returns {Shape}
 */
function t5(title, size, calibration) {
  const { model, feedForward, head, heads, layers, vocabulary } = size;
  const inner = head * heads;
  const attention = (/** @type {string} */ at) => [
    tensor(`${at}.q.weight`, [inner, model], (model * head) ** -0.5),
    tensor(`${at}.k.weight`, [inner, model], model ** -0.5),
    tensor(`${at}.v.weight`, [inner, model], model ** -0.5),
    tensor(`${at}.o.weight`, [model, inner], inner ** -0.5),
  ];
  const tensors = [tensor("shared.weight", [vocabulary, model], 1)];
  for (const side of ["encoder", "decoder"]) {
    for (let block = 0; block < layers; block += 1) {
      const names = ["SelfAttention", ...(side === "decoder" ? ["EncDecAttention"] : [])];
      for (const [index, name] of names.entries()) {
        const layer = `${side}.block.${block}.layer.${index}`;
        tensors.push(...attention(`${layer}.${name}`), tensor(`${layer}.layer_norm.weight`, [model], 0));
      }
      const layer = `${side}.block.${block}.layer.${names.length}`;
      tensors.push(
        tensor(`${layer}.DenseReluDense.wi.weight`, [feedForward, model], model ** -0.5),
        tensor(`${layer}.DenseReluDense.wo.weight`, [model, feedForward], feedForward ** -0.5),
        tensor(`${layer}.layer_norm.weight`, [model], 0),
      );
    }
    const bias = `${side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight`;
    tensors.push(
      tensor(bias, [32, heads], model ** -0.5),
      tensor(`${side}.final_layer_norm.weight`, [model], 0),
    );
  }
  return {
    title,
    config: {
      architectures: ["T5ForConditionalGeneration"],
      model_type: "t5",
      d_model: model,
      d_ff: feedForward,
      d_kv: head,
      num_heads: heads,
      num_layers: layers,
      num_decoder_layers: layers,
      vocab_size: vocabulary,
      feed_forward_proj: "relu",
      relative_attention_num_buckets: 32,
      relative_attention_max_distance: 128,
      layer_norm_epsilon: 1e-6,
      dropout_rate: 0.1,
      tie_word_embeddings: true,
      is_encoder_decoder: true,
      use_cache: true,
      decoder_start_token_id: 0,
      pad_token_id: 0,
      eos_token_id: 1,
      torch_dtype: "bfloat16",
    },
    tensors,
    taskType: "SEQ_2_SEQ_LM",
    targets: { paper: ["q", "v"], "all-linear": ["q", "k", "v", "o", "wi", "wo"] },
    vocabulary,
    calibration,
  };
}

/**
 * Llama with grouped-query attention and a tied head.
 * @param {string} title
 * @param {{ model: number, feedForward: number, heads: number, keyHeads: number, layers: number, vocabulary: number }} size
 * @param {Shape["calibration"]} calibration
 * @returns {Shape}
 */
function llama(title, size, calibration) {
  const { model, feedForward, heads, keyHeads, layers, vocabulary } = size;
  const keys = (model / heads) * keyHeads;
  const deviation = model ** -0.5;
  const tensors = [tensor("model.embed_tokens.weight", [vocabulary, model], deviation)];
  for (let index = 0; index < layers; index += 1) {
    const layer = `model.layers.${index}`;
    tensors.push(
      tensor(`${layer}.input_layernorm.weight`, [model], 0),
      tensor(`${layer}.self_attn.q_proj.weight`, [model, model], deviation),
      tensor(`${layer}.self_attn.k_proj.weight`, [keys, model], deviation),
      tensor(`${layer}.self_attn.v_proj.weight`, [keys, model], deviation),
      tensor(`${layer}.self_attn.o_proj.weight`, [model, model], deviation),
      tensor(`${layer}.post_attention_layernorm.weight`, [model], 0),
      tensor(`${layer}.mlp.gate_proj.weight`, [feedForward, model], deviation),
      tensor(`${layer}.mlp.up_proj.weight`, [feedForward, model], deviation),
      tensor(`${layer}.mlp.down_proj.weight`, [model, feedForward], deviation),
    );
  }
  tensors.push(tensor("model.norm.weight", [model], 0));
  return {
    title,
    config: {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: model,
      intermediate_size: feedForward,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: keyHeads,
      vocab_size: vocabulary,
      max_position_embeddings: 8192,
      rope_theta: 100000,
      rms_norm_eps: 1e-5,
      hidden_act: "silu",
      attention_bias: false,
      mlp_bias: false,
      initializer_range: deviation,
      tie_word_embeddings: true,
      use_cache: true,
      bos_token_id: 0,
      eos_token_id: 0,
      torch_dtype: "bfloat16",
    },
    tensors,
    taskType: "CAUSAL_LM",
    targets: {
      paper: ["q_proj", "v_proj"],
      "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
    vocabulary,
    calibration,
  };
}

const pixels = {
  do_resize: true,
  do_rescale: true,
  do_normalize: true,
  resample: 3,
  rescale_factor: 1 / 255,
};

/**
 * Weight and bias of a linear layer, or of a norm.
 * @param {string} at @param {number} out @param {number} into
 */
const linear = (at, out, into) => [
  tensor(`${at}.weight`, [out, into], into ** -0.5),
  tensor(`${at}.bias`, [out], 0.02),
];
const norm = (/** @type {string} */ at, /** @type {number} */ width) => [
  tensor(`${at}.weight`, [width], 0),
  tensor(`${at}.bias`, [width], 0.02),
];

/**
 * A vision transformer under transformers 5's names.
 * @param {string} title
 * @param {{ model: number, feedForward: number, heads: number, layers: number, side: number, patch: number }} size
 * @param {number} samples a task
 * @returns {Shape}
 */
function vit(title, { model, feedForward, heads, layers, side, patch }, samples) {
  const tokens = Math.floor(side / patch) ** 2 + 1;
  const tensors = [
    tensor("vit.embeddings.cls_token", [1, 1, model], 0.5),
    tensor("vit.embeddings.position_embeddings", [1, tokens, model], 0.5),
    tensor(
      "vit.embeddings.patch_embeddings.projection.weight",
      [model, 3, patch, patch],
      1 / (patch * 3 ** 0.5),
    ),
    tensor("vit.embeddings.patch_embeddings.projection.bias", [model], 0.02),
  ];
  for (let index = 0; index < layers; index += 1) {
    const layer = `vit.layers.${index}`;
    for (const name of ["q_proj", "k_proj", "v_proj", "o_proj"]) {
      tensors.push(...linear(`${layer}.attention.${name}`, model, model));
    }
    tensors.push(
      ...linear(`${layer}.mlp.fc1`, feedForward, model),
      ...linear(`${layer}.mlp.fc2`, model, feedForward),
      ...norm(`${layer}.layernorm_before`, model),
      ...norm(`${layer}.layernorm_after`, model),
    );
  }
  tensors.push(...norm("vit.layernorm", model), ...linear("classifier", 2, model));
  return {
    title,
    config: {
      architectures: ["ViTForImageClassification"],
      model_type: "vit",
      hidden_size: model,
      intermediate_size: feedForward,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      image_size: side,
      patch_size: patch,
      num_channels: 3,
      qkv_bias: true,
      hidden_act: "gelu",
      layer_norm_eps: 1e-12,
      id2label: { 0: "no", 1: "yes" },
      label2id: { no: 0, yes: 1 },
      torch_dtype: "bfloat16",
    },
    preprocessor: {
      image_processor_type: "ViTImageProcessor",
      size: { height: side, width: side },
      image_mean: [0.5, 0.5, 0.5],
      image_std: [0.5, 0.5, 0.5],
      ...pixels,
    },
    tensors,
    taskType: null,
    targets: {
      paper: ["q_proj", "v_proj"],
      "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
    },
    rank: 16,
    vocabulary: 0,
    calibration: { tasks: 2, samples, tokens, answer: 0 },
    picture: { side },
  };
}

/**
 * BLIP that writes captions.
 * @param {string} title
 * @param {{ model: number, feedForward: number, heads: number, layers: number, side: number, patch: number,
 *   vocabulary: number }} size of both sides
 * @param {{ samples: number, answer: number }} calibration
 * @returns {Shape}
 */
function blip(title, size, { samples, answer }) {
  const { model, feedForward, heads, layers, side, patch, vocabulary } = size;
  const tokens = Math.floor(side / patch) ** 2 + 1;
  const tensors = [
    tensor("vision_model.embeddings.class_embedding", [1, 1, model], 0.5),
    tensor("vision_model.embeddings.position_embedding", [1, tokens, model], 0.5),
    tensor(
      "vision_model.embeddings.patch_embedding.weight",
      [model, 3, patch, patch],
      1 / (patch * 3 ** 0.5),
    ),
    tensor("vision_model.embeddings.patch_embedding.bias", [model], 0.02),
  ];
  for (let index = 0; index < layers; index += 1) {
    const layer = `vision_model.encoder.layers.${index}`;
    tensors.push(
      ...linear(`${layer}.self_attn.qkv`, 3 * model, model),
      ...linear(`${layer}.self_attn.projection`, model, model),
      ...norm(`${layer}.layer_norm1`, model),
      ...linear(`${layer}.mlp.fc1`, feedForward, model),
      ...linear(`${layer}.mlp.fc2`, model, feedForward),
      ...norm(`${layer}.layer_norm2`, model),
    );
  }
  const text = "text_decoder.bert";
  tensors.push(
    ...norm("vision_model.post_layernorm", model),
    tensor(`${text}.embeddings.word_embeddings.weight`, [vocabulary, model], 0.5),
    tensor(`${text}.embeddings.position_embeddings.weight`, [512, model], 0.5),
    ...norm(`${text}.embeddings.LayerNorm`, model),
  );
  for (let index = 0; index < layers; index += 1) {
    const layer = `${text}.encoder.layer.${index}`;
    for (const attention of ["attention", "crossattention"]) {
      for (const name of ["query", "key", "value"]) {
        tensors.push(...linear(`${layer}.${attention}.self.${name}`, model, model));
      }
      tensors.push(
        ...linear(`${layer}.${attention}.output.dense`, model, model),
        ...norm(`${layer}.${attention}.output.LayerNorm`, model),
      );
    }
    tensors.push(
      ...linear(`${layer}.intermediate.dense`, feedForward, model),
      ...linear(`${layer}.output.dense`, model, feedForward),
      ...norm(`${layer}.output.LayerNorm`, model),
    );
  }
  const head = "text_decoder.cls.predictions";
  tensors.push(
    ...linear(`${head}.transform.dense`, model, model),
    ...norm(`${head}.transform.LayerNorm`, model),
    tensor(`${head}.bias`, [vocabulary], 0.02),
  );
  const both = {
    hidden_size: model,
    intermediate_size: feedForward,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    hidden_act: "gelu",
  };
  const [begins, ends] = [vocabulary - 2, 2];
  return {
    title,
    config: {
      architectures: ["BlipForConditionalGeneration"],
      model_type: "blip",
      text_config: {
        ...both,
        model_type: "blip_text_model",
        encoder_hidden_size: model,
        vocab_size: vocabulary,
        max_position_embeddings: 512,
        layer_norm_eps: 1e-12,
        is_decoder: true,
        bos_token_id: begins,
        eos_token_id: ends,
        sep_token_id: ends,
        pad_token_id: 0,
      },
      vision_config: {
        ...both,
        model_type: "blip_vision_model",
        image_size: side,
        patch_size: patch,
        layer_norm_eps: 1e-5,
      },
      tie_word_embeddings: true,
      torch_dtype: "bfloat16",
    },
    preprocessor: {
      image_processor_type: "BlipImageProcessor",
      size: { height: side, width: side },
      image_mean: [0.48145466, 0.4578275, 0.40821073],
      image_std: [0.26862954, 0.26130258, 0.27577711],
      ...pixels,
    },
    tensors,
    taskType: null,
    targets: {
      paper: ["attention.self.query", "attention.self.key", "attention.self.value"],
      "all-linear": ["qkv", "projection", "fc1", "fc2", "query", "key", "value", "dense"],
    },
    rank: 32,
    vocabulary: begins,
    calibration: { tasks: 2, samples, tokens, answer },
    picture: { side, ends },
  };
}

/** @type {Record<string, Shape>} */
export const shapes = {
  "t5-base": t5(
    "T5-base (223 million parameters)",
    { model: 768, feedForward: 3072, head: 64, heads: 12, layers: 12, vocabulary: 32128 },
    { ...paper, answer: 16 },
  ),
  "smollm2-135m": llama(
    "SmolLM2-135M (135 million parameters)",
    { model: 576, feedForward: 1536, heads: 9, keyHeads: 3, layers: 30, vocabulary: 49152 },
    { ...paper, answer: 0 },
  ),
  "llama-7b-2-blocks": {
    ...llama(
      "two of the 32 blocks of Llama-7B (405 of 6738 million parameters, and the embedding table)",
      { model: 4096, feedForward: 11008, heads: 32, keyHeads: 32, layers: 2, vocabulary: 32000 },
      { tasks: 2, samples: 8, tokens: 128, answer: 0 },
    ),
    blocks: { measured: 2, whole: 32 },
  },
  tiny: t5(
    "a tiny T5, which only shows that the benchmark runs",
    { model: 64, feedForward: 128, head: 16, heads: 4, layers: 2, vocabulary: 512 },
    { tasks: 2, samples: 8, tokens: 24, answer: 6 },
  ),
  "tiny-llama": llama(
    "a tiny Llama, which only shows that the benchmark runs",
    { model: 64, feedForward: 128, heads: 4, keyHeads: 2, layers: 3, vocabulary: 512 },
    { tasks: 2, samples: 8, tokens: 24, answer: 0 },
  ),
  "vit-b32": vit(
    "ViT-B/32 (87 million parameters, pictures of 224 x 224)",
    { model: 768, feedForward: 3072, heads: 12, layers: 12, side: 224, patch: 32 },
    50,
  ),
  "blip-base": blip(
    "BLIP-base that writes captions (224 million parameters, pictures of 384 x 384)",
    { model: 768, feedForward: 3072, heads: 12, layers: 12, side: 384, patch: 16, vocabulary: 30524 },
    { samples: 50, answer: 12 },
  ),
  "tiny-vit": vit(
    "a tiny ViT, which only shows that the benchmark runs",
    { model: 64, feedForward: 128, heads: 4, layers: 3, side: 32, patch: 8 },
    8,
  ),
  "tiny-blip": blip(
    "a tiny BLIP, which only shows that the benchmark runs",
    { model: 64, feedForward: 128, heads: 4, layers: 2, side: 32, patch: 8, vocabulary: 512 },
    { samples: 8, answer: 6 },
  ),
};
