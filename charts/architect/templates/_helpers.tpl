{{- define "architect.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Prefix of every object's name; leaves room for "-persistent" and the like in 63 characters. */ -}}
{{- define "architect.fullname" -}}
{{- $name := include "architect.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Labels that never change: (dict "root" . "component" "operator"). */ -}}
{{- define "architect.selector" -}}
app.kubernetes.io/name: {{ include "architect.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "architect.labels" -}}
{{ include "architect.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: architect
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "architect.image" -}}
{{- $image := .root.Values.image -}}
{{- printf "%s/%s/%s:%s" $image.registry $image.repository .component (default .root.Chart.AppVersion $image.tag) | quote }}
{{- end }}

{{- /* The daemon's pods, for whoever lists them. */ -}}
{{- define "architect.daemonSelector" -}}
app.kubernetes.io/name={{ include "architect.name" . }},app.kubernetes.io/instance={{ .Release.Name }},app.kubernetes.io/component=daemon
{{- end }}

{{- define "architect.spread" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "architect.selector" . | nindent 12 }}
        # Those of a revision: in an upgrade, the former one's would send both to one node.
        matchLabelKeys: [pod-template-hash]
{{- end }}

{{- /* What the operator and the webhook need of the kernel: nothing. */ -}}
{{- define "architect.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "architect.nonRoot" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Namespaces that the webhooks look at: not the cluster's own, and not ours, so that neither
waits for us to start. */ -}}
{{- define "architect.namespaces" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values:
      {{- toYaml (append .Values.webhook.excludedNamespaces .Release.Namespace | uniq) | nindent 6 }}
{{- end }}

{{- /* The label with which one object opts out, whatever its annotations say. */ -}}
{{- define "architect.objects" -}}
matchExpressions:
  - key: architect.dev/webhook
    operator: NotIn
    values: [ignore]
{{- end }}

{{- /* Where the object store is: for operator and daemon alike. */ -}}
{{- define "architect.storeArguments" -}}
{{- with .Values.objectStore }}
{{- if .bucket }}
- --store-bucket={{ .bucket }}
- --store-endpoint={{ .endpoint }}
- --store-region={{ .region }}
- --store-prefix={{ .prefix }}
- --store-path-style={{ .pathStyle }}
{{- if .caSecretName }}
- --store-ca-file=/etc/architect/object-store/ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "architect.storeMounts" -}}
{{- with .Values.objectStore }}
{{- if and .bucket .caSecretName }}
- name: object-store
  mountPath: /etc/architect/object-store
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{- define "architect.storeVolumes" -}}
{{- with .Values.objectStore }}
{{- if and .bucket .caSecretName }}
- name: object-store
  secret:
    secretName: {{ .caSecretName }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end }}
{{- end }}

{{- define "architect.storeCredentials" -}}
{{- with .Values.objectStore }}
{{- if and .bucket .credentials.secretName }}
{{- $secret := .credentials.secretName }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What seals the operator's private keys, if there is a store at all. */ -}}
{{- define "architect.kmsArguments" -}}
{{- if .Values.objectStore.bucket }}
{{- with .Values.objectStore.kms }}
{{- if .provider }}
- --kms-provider={{ .provider }}
- --kms-key-id={{ .keyId }}
- --kms-cluster={{ .cluster }}
- --kms-region={{ default "" .region }}
- --kms-endpoint={{ default "" .endpoint }}
- --kms-unseal={{ default false .unseal }}
{{- if .caSecretName }}
- --kms-ca-file=/etc/architect/kms/ca/ca.crt
{{- end }}
{{- if (.credentials).secretName }}
- --kms-credentials-file=/etc/architect/kms/credentials/credentials
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "architect.kmsMounts" -}}
{{- if .Values.objectStore.bucket }}
{{- with .Values.objectStore.kms }}
{{- if and .provider .caSecretName }}
- name: kms-ca
  mountPath: /etc/architect/kms/ca
  readOnly: true
{{- end }}
{{- if and .provider (.credentials).secretName }}
- name: kms-credentials
  mountPath: /etc/architect/kms/credentials
  readOnly: true
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "architect.kmsVolumes" -}}
{{- if .Values.objectStore.bucket }}
{{- with .Values.objectStore.kms }}
{{- if and .provider .caSecretName }}
- name: kms-ca
  secret:
    secretName: {{ .caSecretName }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- if and .provider (.credentials).secretName }}
- name: kms-credentials
  secret:
    secretName: {{ .credentials.secretName }}
    items:
      - key: credentials
        path: credentials
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "architect.beforeUninstall" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: "-5"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{- /* For admission policies: which labels and annotations a request changes, adds or takes away, and
whether all else of the metadata that can be changed is kept. */ -}}
{{- define "architect.changedMetadata" -}}
{{- range $field := list "labels" "annotations" }}
- name: {{ $field }}Before
  expression: oldObject.metadata.?{{ $field }}.orValue({})
- name: {{ $field }}After
  expression: object.metadata.?{{ $field }}.orValue({})
- name: {{ $field }}
  expression: >-
    variables.{{ $field }}After.filter(k,
    variables.{{ $field }}After[?k] != variables.{{ $field }}Before[?k]) +
    variables.{{ $field }}Before.filter(k, !(k in variables.{{ $field }}After))
{{- end }}
- name: isMetadataKept
  expression: >-
    object.metadata.?finalizers == oldObject.metadata.?finalizers &&
    object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences
{{- end }}

{{- /* The same for the fields of a part of the object, whichever Kubernetes knows by now. */ -}}
{{- define "architect.changedFields" -}}
- name: {{ . }}Before
  expression: dyn(oldObject).?{{ . }}.orValue({})
- name: {{ . }}After
  expression: dyn(object).?{{ . }}.orValue({})
- name: {{ . }}
  expression: >-
    variables.{{ . }}After.filter(k, variables.{{ . }}After[?k] != variables.{{ . }}Before[?k]) +
    variables.{{ . }}Before.filter(k, !(k in variables.{{ . }}After))
{{- end }}
