{{- define "signet.name" -}}
{{- default "signet" .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "signet.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "signet.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The labels of an object; its argument is a list of the context and the component. */}}
{{- define "signet.labels" -}}
{{- $root := index . 0 -}}
{{ include "signet.selector" . }}
app.kubernetes.io/part-of: signet
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What pods are selected by. These labels never change. */}}
{{- define "signet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "signet.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* An image; its argument is a list of the context, the block and the default tag. */}}
{{- define "signet.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $image.repository }}:{{ default (index . 2) $image.tag }}
{{- end }}

{{- define "signet.tag" -}}
{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{- define "signet.priorityClass" -}}
{{- default (include "signet.fullname" .) .Values.priorityClass.name }}
{{- end }}

{{/* Refuses what would not work, before anything is rendered. */}}
{{- define "signet.trustDomain" -}}
{{- required "trustDomain is required: the name of the trust domain, such as example.org (--set trustDomain=example.org)" .Values.trustDomain }}
{{- end }}

{{- define "signet.clusterName" -}}
{{- required "clusterName is required: the name the server knows this cluster by, such as production (--set clusterName=production)" .Values.clusterName }}
{{- end }}

{{- define "signet.check" -}}
{{- if eq .Values.agentNamespace.name .Release.Namespace }}
{{- fail (printf "agentNamespace.name (%s) cannot be the namespace of the release: agents need a namespace for privileged pods, the server keeps the restricted profile" .Values.agentNamespace.name) }}
{{- end }}
{{- if and (not .Values.agent.hostNetwork) (not .Values.agent.kubelet.verify) }}
{{- fail "agent.kubelet.verify must be true when agent.hostNetwork is false: on the pods' network another pod could answer for the kubelet" }}
{{- end }}
{{- if and .Values.agent.unix.discoverWorkloadPath (not .Values.agent.unix.enabled) }}
{{- fail "agent.unix.discoverWorkloadPath needs agent.unix.enabled" }}
{{- end }}
{{- if and .Values.controller.watchClassless (not .Values.controller.className) }}
{{- fail "controller.watchClassless needs controller.className: without a class every resource is looked at" }}
{{- end }}
{{- end }}

{{/* The projected volume with which a container speaks to the API server. */}}
{{- define "signet.apiToken" -}}
sources:
  - serviceAccountToken:
      path: token
      expirationSeconds: 3600
  - configMap:
      name: kube-root-ca.crt
      items:
        - key: ca.crt
          path: ca.crt
  - downwardAPI:
      items:
        - path: namespace
          fieldRef:
            fieldPath: metadata.namespace
{{- end }}
