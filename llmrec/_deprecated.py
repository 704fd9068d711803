"""Names of the first edition, for one more version: old module -> new module -> names.

`old=new` where the name changed. Written by hand, beside the modules that come from notebooks.
`llmrec.experts` and `llmrec.recommend` exist only to look here; `llmrec` itself and the modules of
today look here for names that they do not know (see `llmrec/__init__.py`)."""
import warnings
from importlib import import_module

MOVED = {
    'core': {
        'core': (
            'need=import_optional expect=check_type whole=check_int share=check_fraction '
            'blocks=batch_slices afford=check_memory play=interactive'),
    },
    'data': {
        'readers': (
            'read_movielens read_movietweetings read_amazon read_recbole read_table '
            'load_journey load_movielens'),
        'data': 'toy_pair=make_synthetic_pair',
    },
    'encode': {
        'model_files': (
            'MINILM_SHA file_sha=file_sha256 bundled_minilm check_dir=validate_model_dir '
            'find_model gguf_dir=convert_gguf model_info=read_model_config'),
        'core': 'unit=l2_normalize',
        'embedding_cache': (
            'text_keys=hash_texts row_sums=row_checksums VectorStore=EmbeddingCache'),
        'encode': (
            'anisotropy=mean_pairwise_cosine center=center_normalize nearest=knn_search '
            'catalogue_map=plot_item_map'),
    },
    'experts': {
        'dataset': (
            'Histories take=select_users select=mask_interactions decay=recency_weights '
            'decayed=decayed_matrix Interactions=Dataset as_list interactions=make_dataset '
            'histories histories_from_items view=restrict_domain '
            'spread_parts=restricted_attributions binary=binarize '
            'evident=most_frequent_items moved=shift_ids transitions=prefix_examples '
            'leave_last=split_last_interaction seen_items next_ranks=next_item_ranks '
            'next_ndcg=next_item_ndcg inserted=insert_columns domain_ranges '
            'joined=training_histories'),
        'expert': 'Expert',
        'baselines': (
            'Popularity Content Repeat=RepeatConsumption Random top_entries=topk_sparse '
            'ItemKNN UserKNN fold_in ALS BPR'),
        'core': 'unit=l2_normalize',
        'features': (
            'spread=partial_whiten one_hot soft_bins item_features kernel=item_kernel '
            'low_rank krige=gp_extend compact=pca_features extended=project_new_items '
            'krige_vectors=gp_smooth_embeddings'),
        'closed_form': (
            'ease near_ridge=neighbourhood_ridge EASE Kriging=KernelTransfer TextPopularity '
            'TransitionRidge=NextItemRidge Bilinear=BilinearContent slim SLIM Markov Tfidf '
            'zscore Blend tune=hyperparameter_search'),
        'metrics': 'rank_rows=rank_of_target ndcg_rows=ndcg_of_ranks',
        'sequence': (
            'with_start=prepend_bos windows=sequence_windows pad_rows=pad_ragged SeqBatches '
            'Block SeqNet draw_weights=negative_sampling_probs choice_nll=softmax_nll '
            'choice_sum=softmax_nll_sum seq_loss NdcgCB flat=flatten_params SASRec '
            'TextNet=TextSeqNet TextSASRec KrigedSASRec=SmoothedSASRec'),
        'two_tower': 'Tower=ResidualProjection TowerNet TwoTower',
    },
    'explain': {
        'explain': (
            'Said=FixedScores Why=Explanation Without=Counterfactual '
            'gradient_words=token_integrated_gradients deleted_words=token_occlusion '
            'Words=TokenAttributions grounded=is_grounded retell=paraphrase'),
        'features': 'spread_map=whitening_map',
        'judge': 'Writer=LMWriter',
    },
    'fusion': {
        'recommender': 'STRATEGIES=SOURCE_MODES BUDGETS Recommender',
        'fusion': (
            'standard=standardize_scores item_evidence=item_log_counts '
            'user_evidence=user_log_counts Choices=ChoiceBatch choices=build_choices '
            'levels=unique_evidence_pairs '
            'pseudo_target=simulate_cold_target'),
        'dataset': (
            'drop_items last_rows=last_interactions took=has_item before=history_before '
            'until=history_until moments=basket_start hold_out=hold_out_last_basket '
            'append_rows=append_interactions insert_items Aged=HistoriesWithAge '
            'subsets=history_subsets'),
        'features': (
            'attributes=attribute_columns foretold=cross_domain_predictability '
            'same_people=test_shared_user_ids'),
        'expert': 'expert_key',
        'lists': 'top_k',
        'explain': (
            'row_scores=interaction_scores history_parts=score_attributions Explanation'),
    },
    'learner': {
        'learner': (
            'Batches=TensorLoader DLs=DataLoaders plt_axes=new_axes '
            'TrackerCB=ExperimentTrackerCB'),
        'finetune': (
            'GradualCB=GradualUnfreezeCB transfer_fit lam_path=lambda_search '
            'AlignCB=DomainAlignCB with_twin=compare_with_scratch n_steps=step_budget '
            'learning_curve'),
    },
    'metrics': {
        'evaluation': (
            'COMPARED Task=EvalTask make_task=make_eval_task rank_task list_task '
            'slice_labels=group_labels slice_table Report evaluate Comparison compare'),
        'metrics': (
            'ITEM_CLASSES=ITEM_BUCKETS USER_CLASSES=USER_BUCKETS evidence_class=item_bucket '
            'history_class=user_bucket '
            'tie_order=tie_break_keys rank_metrics=topk_metrics auc_rows=auc_per_user '
            'popularity=mean_popularity lift=popularity_lift resampled=bootstrap_means'),
        'preprocess': 'concentration=gini',
    },
    'online': {
        'online': (
            'Interests=RunningUserVectors relearn=refit_closed_form steps=stream_steps '
            'replay=simulate_stream'),
        'incremental': (
            'woodbury gain=woodbury_terms widened moves change FollowRidge=IncrementalRidge '
            'one_of FollowMarkov=IncrementalMarkov FollowEASE=IncrementalEASE'),
        'sequence': 'fisher_rows rehearse=finetune_with_replay',
    },
    'pipeline': {
        'cli': (
            'COMMANDS cli_run cli_recommend cli_evaluate cli_encode cli_doctor chapters '
            'copy_chapters cli_lab main'),
        'readers': 'parse_columns',
        'core': 'peak_memory=peak_memory_mb',
        'pipeline': (
            'collect=prepare_data decide_sparse=is_sparse '
            'road_experts=branch_experts Memory=ResultCache alone=folder_lock '
            'encoder_of=load_encoder curves_of=training_curves baselines=fit_baselines '
            'judge=evaluate_model Say=StageLog systems=fit_and_evaluate travel=run_pipeline '
            'tell=print_results say_collected=say_data'),
        'report': (
            'results_table plot_losses plot_metrics plot_evidence figures safe_cell '
            'report_html'),
    },
    'preprocess': {
        'preprocess': (
            'price_band=price_bucket ordered=sort_log past_source=truncate_source'),
        'leakage': 'audit=leakage_audit leakage_audit',
    },
    'pretrain': {
        'pretrain': (
            'hold_out=split_texts mixture=domain_sampling_probs mix_texts=sample_mixture '
            'co_pairs=cooccurrence_pairs PairModel=ContrastiveModel '
            'pair_recall=pair_recall_at_k'),
    },
    'privacy': {
        'privacy': (
            'KINDS=PII_KINDS scrub=redact_pii traces=find_ids attack=membership_inference '
            'PrivateCB=DPSGDCallback noise_for=noise_multiplier spent=epsilon_spent '
            'person_losses=per_user_loss PrivateHead=DPHead'),
        'dataset': 'places_of without=drop_users',
    },
    'recommend': {
        'lists': (
            'recommend=cosine_top_k item_mask reason=short_explanation '
            'Shelf=RecommendationTable shelf=to_table similar_items mmr '
            'divergence=kl_divergence calibrate'),
        'judge': 'LMJudge=LMScorer Reranker',
        'vectors': 'choice_logit=conditional_logit',
        'search': (
            'half_pays ExactIndex recall NearIndex=ANNIndex CellIndex=IVFIndex '
            'GraphIndex=HNSWIndex'),
        'serve': 'Sketch=LowRankSketch Server=RequestScorer Term=ScoreTerm',
    },
    'scale': {
        'search': 'QdrantIndex',
    },
    'transfer': {
        'finetune': (
            'STRATEGIES=FINETUNE_STRATEGIES TransferClassifier text_body=mlp_encoder '
            'transfer_loop=train_classifier test_loop=evaluate_classifier '
            'TransferRecommender=NextItemClassifier next_rows=next_item_examples '
            'LowRank=LoRALinear Adapter layer_groups=layerwise_groups '
            'set_strategy=apply_finetune_strategy head_start=zero_shot_gain rank_sources '
            'Verdict=TransferEffect verdict=transfer_effect'),
        'transfer': (
            'params_of=named_params matched=match_params transfer_prox_=proximal_step_ '
            'load_source=load_pretrained transfer_report=load_report'),
        'metrics': 'ndcg_next=ndcg_of_ranks',
        'discrepancy': (
            'mmd coral proxy_a_distance vocab_overlap logme align=align_domains '
            'grad_reverse DomainCritic=DomainDiscriminator choose_strategy'),
    },
    'vectors': {
        'vectors': (
            'before_last=leave_one_out learn_events=fit_event_weights '
            'attribute_vectors=embed_attributes'),
        'preprocess': 'price_words=price_bucket',
    },
}


def _place(module: str, name: str) -> tuple[str, str] | None:
    "Where an old name of an old module is today: (module, name)."
    for home, names in MOVED.get(module, {}).items():
        for entry in names.split():
            old, _, new = entry.partition('=')
            if old == name: return home, new or old
    return None


def _resolve(said: str, home: str, name: str, stacklevel: int):
    "The object that is meant, with a warning that says where it is today."
    warnings.warn(f'{said} is deprecated and will go with the next version: '
                  f'use llmrec.{home}.{name}', DeprecationWarning, stacklevel=stacklevel + 1)
    return getattr(import_module(f'llmrec.{home}'), name)


def old_names(module: str):
    "`__getattr__` of a module: names that it had in the first edition."
    module = module.rpartition('.')[2]

    def lookup(name: str):
        place = _place(module, name)
        if place is None:
            raise AttributeError(f"module 'llmrec.{module}' has no attribute {name!r}")
        return _resolve(f'llmrec.{module}.{name}', *place, stacklevel=2)
    return lookup


def old_module_names(module: str) -> list[str]:
    "All names that an old module still answers to."
    entries = ' '.join(MOVED[module].values()).split()
    return sorted(entry.partition('=')[0] for entry in entries)


def find(name: str):
    "A public name of the first edition that `llmrec` itself answered to; None if there was none."
    for module in MOVED:
        if place := _place(module, name): return _resolve(f'llmrec.{name}', *place, stacklevel=3)
    from ._modidx import d
    for home, names in d['syms'].items():
        if not name.startswith('_') and f'{home}.{name}' in names:
            return _resolve(f'llmrec.{name}', home.removeprefix('llmrec.'), name, stacklevel=3)
    return None
